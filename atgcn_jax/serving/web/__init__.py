"""The local web page and JSON API of `atgcn serve`."""
