"""The setting `runtime.mesh`: how many devices share a batch, and how many the parameters."""

from pydantic import Field, model_validator

from charjax.config.fields import Section

# As many devices as are left.
REST = -1
# More than any machine has; their product stays below 2**31.
_MOST = 2**15


class MeshConfig(Section):
    """Numbers of devices: `data` groups of `fsdp` each.

    All of them share the rows of a batch. The devices of a group divide the parameters and the
    optimizer's moments among them, and every group has all of both.
    """

    data: int = Field(REST, ge=REST, le=_MOST, description="groups; -1: as many as are left")
    fsdp: int = Field(
        1, ge=REST, le=_MOST, description="devices that divide the parameters; -1: all left"
    )

    @model_validator(mode="after")
    def _check(self) -> "MeshConfig":
        for name in MeshConfig.model_fields:
            if getattr(self, name) == 0:
                raise ValueError(
                    f"runtime.mesh.{name}: 0 given; must be a number of devices of at least 1, or "
                    "-1 for as many as are left"
                )
        if self.data == self.fsdp == REST:
            raise ValueError(
                "runtime.mesh: data and fsdp are both -1; only one of them can be what the other "
                "leaves: give a number for the other"
            )
        return self
