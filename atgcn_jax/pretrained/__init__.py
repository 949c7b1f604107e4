"""Published networks by name: their addresses, download and conversion to runs."""
