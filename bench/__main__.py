"""`python -m bench`: the current directory goes to the end of the path first.

Our top-level names (algos, envs, reports) are common words: a user's own `envs/` folder must not shadow ours, while a
plug-in that lies in the current directory must still be found.
"""

import sys

if __name__ == "__main__":
    if sys.path and not getattr(sys.flags, "safe_path", False):
        sys.path.append(sys.path.pop(0))
    from bench.cli import main

    sys.exit(main())
