"""The names of AlphaFold 2's published parameters for ours.

A published array is called `alphafold/alphafold_iteration/<module>//<parameter>`. Our arrays have the same shapes, so
that reading and writing is renaming and nothing else.
"""

# What all published names begin with.
PREFIX = "alphafold/alphafold_iteration/"

# Our name of a module or of a parameter, and the published one; two slashes stand before a parameter. Where only the
# module is listed its parameters have the same names on both sides.
_ATTENTION = {
    "query/weights": "//query_w",
    "key/weights": "//key_w",
    "value/weights": "//value_w",
    "gate/weights": "//gating_w",
    "gate/bias": "//gating_b",
    "output/weights": "//output_w",
    "output/bias": "//output_b",
}
_COLUMN_ATTENTION = {"norm": "/query_norm", "attention": ("/attention", _ATTENTION)}
_PAIR_BIAS = {"pair_bias/project/weights": "//feat_2d_weights"}
_TRIANGLE_ATTENTION = _COLUMN_ATTENTION | _PAIR_BIAS
_ROW_ATTENTION = {
    "norm_m": "/query_norm",
    "norm_z": "/feat_2d_norm",
    "attention": ("/attention", _ATTENTION),
} | _PAIR_BIAS
_TRANSITION = {"norm": "/input_layer_norm", "expand": "/transition1", "contract": "/transition2"}
_OUTER_PRODUCT_MEAN = {
    "norm": "/layer_norm_input",
    "left": "/left_projection",
    "right": "/right_projection",
    "output/weights": "//output_w",
    "output/bias": "//output_b",
}
_TRIANGLE_MULTIPLICATION = {
    "norm_in": "/layer_norm_input",
    "left": "/left_projection",
    "right": "/right_projection",
    "left_gate": "/left_gate",
    "right_gate": "/right_gate",
    "norm_out": "/center_layer_norm",
    "output": "/output_projection",
    "gate": "/gating_linear",
}
_PAIR_BLOCK = {
    "triangle_outgoing": ("/triangle_multiplication_outgoing", _TRIANGLE_MULTIPLICATION),
    "triangle_incoming": ("/triangle_multiplication_incoming", _TRIANGLE_MULTIPLICATION),
    "attention_starting": ("/triangle_attention_starting_node", _TRIANGLE_ATTENTION),
    "attention_ending": ("/triangle_attention_ending_node", _TRIANGLE_ATTENTION),
    "pair_transition": ("/pair_transition", _TRANSITION),
}
_BLOCK = {
    "row_attention": ("/msa_row_attention_with_pair_bias", _ROW_ATTENTION),
    "column_attention": ("/msa_column_attention", _COLUMN_ATTENTION),
    "msa_transition": ("/msa_transition", _TRANSITION),
    "outer_product_mean": ("/outer_product_mean", _OUTER_PRODUCT_MEAN),
} | _PAIR_BLOCK
_EXTRA_BLOCK = _BLOCK | {"column_attention": ("/msa_column_global_attention", _COLUMN_ATTENTION)}
_FOLD = {
    "attention": (
        "/invariant_point_attention",
        {
            "query": "/q_scalar",
            "key_value": "/kv_scalar",
            "query_points": "/q_point_local",
            "key_value_points": "/kv_point_local",
            "pair_bias": "/attention_2d",
            "output": "/output_projection",
            "point_weights": "//trainable_point_weights",
        },
    ),
    "norm_attention": "/attention_layer_norm",
    "transition_1": "/transition",
    "transition_2": "/transition_1",
    "transition_3": "/transition_2",
    "norm_transition": "/transition_layer_norm",
    "backbone_update": "/affine_update",
    "sidechain": (
        "/rigid_sidechain",
        {
            "project_act": "/input_projection",
            "project_initial": "/input_projection_1",
            "block_1_in": "/resblock1",
            "block_1_out": "/resblock2",
            "block_2_in": "/resblock1_1",
            "block_2_out": "/resblock2_1",
            "angles": "/unnormalized_angles",
        },
    ),
}
_NETWORK = {
    "embedding": (
        "evoformer",
        {
            "target": "/preprocess_1d",
            "msa": "/preprocess_msa",
            "left": "/left_single",
            "right": "/right_single",
            "position/project": "/pair_activiations",
        },
    ),
    "recycling": (
        "evoformer",
        {"norm_m": "/prev_msa_first_row_norm", "norm_z": "/prev_pair_norm", "distances": "/prev_pos_linear"},
    ),
    "template": (
        "evoformer/template_embedding",
        {
            "embed": "/single_template_embedding/embedding2d",
            "norm": "/single_template_embedding/output_layer_norm",
            "stack/blocks": (
                "/single_template_embedding/template_pair_stack/__layer_stack_no_state",
                _PAIR_BLOCK,
            ),
            "attention": ("/attention", _ATTENTION),
        },
    ),
    "template_angles": ("evoformer", {"embed": "/template_single_embedding", "project": "/template_projection"}),
    "extra_msa": (
        "evoformer",
        {"embed": "/extra_msa_activations", "stack/blocks": ("/extra_msa_stack", _EXTRA_BLOCK)},
    ),
    "evoformer/blocks": ("evoformer/evoformer_iteration", _BLOCK),
    "single": "evoformer/single_activations",
    "structure": (
        "structure_module",
        {
            "norm_single": "/single_layer_norm",
            "norm_pair": "/pair_layer_norm",
            "project": "/initial_projection",
            "fold": ("/fold_iteration", _FOLD),
        },
    ),
    "masked_msa/logits": "masked_msa_head/logits",
    "distogram/half_logits": "distogram_head/half_logits",
    "plddt": (
        "predicted_lddt_head",
        {"norm": "/input_layer_norm", "hidden_1": "/act_0", "hidden_2": "/act_1", "logits": "/logits"},
    ),
    "resolved/logits": "experimentally_resolved_head/logits",
    "aligned_error/logits": "predicted_aligned_error_head/logits",
}


def published_name(path: str) -> str:
    """The published name of our parameter, without the prefix that all of them share.

    Raises:
      KeyError: AlphaFold 2 has no such parameter.
    """
    if path in _PUBLISHED:
        return _PUBLISHED[path]
    module, _, parameter = path.rpartition("/")
    return f"{_PUBLISHED[module]}//{parameter}"


def _flat(table: dict, ours: str = "", theirs: str = "") -> dict[str, str]:
    """The nested table as one of whole names."""
    names: dict[str, str] = {}
    for name, published in table.items():
        if isinstance(published, str):
            names[ours + name] = theirs + published
        else:
            below, inner = published
            names |= _flat(inner, f"{ours}{name}/", theirs + below)
    return names


_PUBLISHED = _flat(_NETWORK)
