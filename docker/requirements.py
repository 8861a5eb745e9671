"""Prints what pyproject.toml requires, with the extras that are named, one requirement per line.

`python docker/requirements.py cluster,smax`. With it, a build installs the dependencies before the
sources are copied, and a changed source file does not install them again.
"""

import sys
from pathlib import Path

import tomllib

pyproject = Path(__file__).resolve().parents[1] / "pyproject.toml"
project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
known = project["optional-dependencies"]
extras = [extra for names in sys.argv[1:] for extra in names.split(",") if extra]
unknown = sorted(set(extras) - set(known))
if unknown:
    sys.exit(
        f"requirements.py: no extra {', '.join(unknown)}; there are {', '.join(sorted(known))}"
    )
requirements = [*project["dependencies"], *(r for extra in extras for r in known[extra])]
print("\n".join(dict.fromkeys(requirements)))
