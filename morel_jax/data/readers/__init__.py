"""Readers of official archives: one module per family of data sets, which lists them in `READERS` and is found here."""
import importlib
import pkgutil

from morel_jax.data.archives import Reader

__all__ = ["BY_NAME"]

BY_NAME: dict[str, Reader] = {reader.name: reader for module in pkgutil.iter_modules(__path__)
                              for reader in importlib.import_module(f"{__name__}.{module.name}").READERS}
