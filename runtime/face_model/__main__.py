"""`python -m runtime.face_model convert`: brings other face models into the library's format."""

import sys

from runtime.convert.command import main

if __name__ == "__main__":
    sys.exit(main())
