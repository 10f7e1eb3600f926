"""Import this before nbformat, nbconvert or papermill, in a process that starts for one notebook or page.

They load jsonschema, which builds a grammar for one format check (internationalised addresses) on import: 1.2 to 1.7 s for a check that
nothing in a notebook needs. None in `sys.modules` makes that import fail, and jsonschema then goes on without the check.
"""

import sys

sys.modules.setdefault("rfc3987_syntax", None)
