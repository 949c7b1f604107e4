"""Faster forms of the convolutions of CNN10 and MobileNetV3, for CPUs and TPUs."""
