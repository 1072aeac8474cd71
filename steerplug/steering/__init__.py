"""What is added to the activations: values, their algebra, and the file they live in."""

from steerplug.steering.value import NOTHING, Delta, Mix, Scope, Steering

__all__ = ["NOTHING", "Delta", "Mix", "Scope", "Steering"]
