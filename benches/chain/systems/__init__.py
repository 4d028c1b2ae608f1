"""Finds the adapters: every module here that lists SYSTEMS."""

import importlib
from pathlib import Path


def load():
    """All systems by name, in a stable order."""
    modules = [importlib.import_module(f"systems.{path.stem}")
               for path in sorted(Path(__file__).parent.glob("*.py"))
               if path.stem not in ("__init__", "base")]
    return {s.name: s for m in modules for s in getattr(m, "SYSTEMS", [])}
