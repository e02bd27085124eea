"""Compiles a sum over each axis of a mesh for two TPU slices, which nobody needs to have: `python two_slices.py`.

Prints the slices that the mesh has along its data axis, and the operations of the program that move data.
"""

import json
import os

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

import jax
from jax import lax
from jax.experimental import topologies
from jax.sharding import PartitionSpec as P

from evotrain.config import MeshConfig
from evotrain.parallel.mesh import ALL_AXES, BATCH_AXES, CONTEXT, DATA, FSDP, make_mesh

if __name__ == "__main__":
    pod = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4", num_slices=2)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=4), pod.devices)
    sums = jax.shard_map(
        lambda x: (lax.psum(x, DATA), lax.psum(x, FSDP), lax.psum(x, CONTEXT)),
        mesh=mesh,
        in_specs=P(ALL_AXES),
        out_specs=(P((FSDP, CONTEXT)), P((DATA, CONTEXT)), P(BATCH_AXES)),
    )
    x = jax.ShapeDtypeStruct((16, 128), "float32", sharding=jax.NamedSharding(mesh, P(ALL_AXES)))
    text = jax.jit(sums).lower(x).compile().as_text()
    print(json.dumps([[{device.slice_index for device in part.flat}.pop() for part in mesh.devices], text]))
