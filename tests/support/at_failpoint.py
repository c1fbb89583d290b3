"""Run a module as `python -m` does, in a forked process that is to die at a failpoint.

The setting was read when the failpoints were imported, which was before the fork.
"""

import os
import runpy
import sys

from shared.runtime.failpoints import FAILPOINT_VARIABLE, failpoint, failpoint_for

if __name__ == "__main__":
    reached = failpoint_for(os.environ[FAILPOINT_VARIABLE])
    for module in list(sys.modules.values()):
        if vars(module).get("failpoint") is failpoint:
            vars(module)["failpoint"] = reached
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
