"""The convolutions of CNN10 in forms that are faster on CPUs and on TPUs."""
