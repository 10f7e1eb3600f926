"""The kernel in which notebooks are executed: the interpreter that asks for it.

Jupyter finds an interpreter by the name "python3" in folders of the machine, of the home folder and
of JUPYTER_PATH; on a JupyterHub, or where somebody installed a kernel, that is another environment.
nbval's `--nbval-current-env` does the same as this class.
"""

from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager


class Kernel(AsyncKernelManager):
    """nbclient's `kernel_manager_class`; the name of the kernel that it is given does not count."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """How to start ipykernel with `sys.executable`."""
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())
