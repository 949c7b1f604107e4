"""The memory, time and disk that a training takes on TPUs, computed without one."""
