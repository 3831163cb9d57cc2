"""Is my fine-tuning stable, and does this recipe make it more stable?"""

from importlib.metadata import version

__version__ = version("stableft")
