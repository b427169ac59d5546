"""What an exported bundle needs: the size of the base install, what it takes to load a bundle and to decide.

Usage: python benchmarks/base_install.py BUNDLE

Makes a virtual environment, installs this tree into it without any extra (pinned by constraints.txt), and lets it
decide on a text in a process of its own; sees that neither torch nor transformers came along.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = """
import json, sys, time
start = time.perf_counter()
import bifocal
imported = time.perf_counter()
system = bifocal.load(sys.argv[1])
loaded = time.perf_counter()
first = system.predict(text="a quiet morning")
decided = time.perf_counter()
system.predict(text="a second post")
print(json.dumps({
    "import_s": imported - start, "load_s": loaded - imported, "first_decision_s": decided - loaded,
    "next_decision_s": time.perf_counter() - decided, "probability": first.probability,
    "foreign": sorted({"torch", "transformers", "scipy", "sklearn", "pandas"} & set(sys.modules)),
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        empty = size_of(place)
        start = time.perf_counter()
        install: list[str | Path] = [
            place / "bin/pip",
            "install",
            "--quiet",
            "--constraint",
            ROOT / "constraints.txt",
            ROOT,
        ]
        subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
        took = time.perf_counter() - start
        listed = subprocess.run([place / "bin/pip", "list", "--format", "json"], capture_output=True, check=True)
        packages = {row["name"].lower() for row in json.loads(listed.stdout)}
        assert not packages & {"torch", "transformers", "scikit-learn", "scipy", "pandas"}, packages
        said = [
            json.loads(
                subprocess.run(
                    [place / "bin/python", "-c", CODE, options.bundle.resolve()],
                    capture_output=True,
                    check=True,
                    cwd=folder,
                ).stdout
            )
            for _ in range(3)
        ]
        size = size_of(place) - empty
    print(f"{len(packages)} packages, {size / 2**20:.0f} MiB, installed in {took:.0f} s")
    print(json.dumps(said[-1], indent=2))


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
