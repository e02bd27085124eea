"""Made-up entries of the PDB as mmCIF text: chains with a backbone and Cβ, Cα every 3.8 Å."""

from collections.abc import Mapping

from made_chains import THREE

ATOM_COLUMNS = (
    "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id "
    "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv pdbx_formal_charge auth_seq_id auth_comp_id "
    "auth_asym_id auth_atom_id pdbx_PDB_model_num"
)
BACKBONE = (("N", -1.4, 0.3, 0.0), ("CA", 0.0, 0.0, 0.0), ("C", 1.4, 0.3, 0.0), ("O", 1.4, 1.5, 0.0))
BETA = ("CB", 0.0, -1.0, 1.0)


def mmcif_text(
    chains: Mapping[str, str], released: str = "", missing: Mapping[str, set[int]] | None = None, shift: float = 0.0
) -> str:
    """`chains` are sequences by name; residues of `missing`, from 0, have no atoms; `shift` in Å tears chains apart.

    A residue's place along x is 3.8 Å times its number, that of a chain along y 50 Å times its own; the torn half of a
    chain is moved along z.
    """
    poly, asym, comp, atoms = [], [], set(), []
    for entity, (chain, sequence) in enumerate(chains.items(), 1):
        asym.append(f"{chain} {entity}")
        for number, letter in enumerate(sequence, 1):
            poly.append(f"{entity} {number} {THREE[letter]} n")
            comp.add(THREE[letter])
            if number - 1 in (missing or {}).get(chain, ()):
                continue
            for name, x, y, z in (*BACKBONE, *((BETA,) if letter != "G" else ())):
                z += shift * (number > len(sequence) // 2)
                place = f"{3.8 * (number - 1) + x:.3f} {50 * entity + y:.3f} {z:.3f}"
                atoms.append(
                    f"ATOM {len(atoms) + 1} {name[0]} {name} . {THREE[letter]} {chain} {entity} {number} ? {place} "
                    f"1.00 20.00 ? {number} {THREE[letter]} {chain} {name} 1"
                )
    tables = {
        "_entity": (["id", "type"], [f"{entity} polymer" for entity in range(1, len(chains) + 1)]),
        "_entity_poly": (
            ["entity_id", "type"], [f"{entity} 'polypeptide(L)'" for entity in range(1, len(chains) + 1)],
        ),
        "_entity_poly_seq": (["entity_id", "num", "mon_id", "hetero"], poly),
        "_struct_asym": (["id", "entity_id"], asym),
        "_chem_comp": (["id", "type"], [f"{name} 'L-peptide linking'" for name in sorted(comp)]),
        "_exptl": (["entry_id", "method"], ["made 'X-RAY DIFFRACTION'"]),
        "_atom_site": (
            ATOM_COLUMNS.split(),
            atoms,
        ),
    }  # fmt: skip
    if released:
        tables["_pdbx_audit_revision_history"] = (["ordinal", "revision_date"], [f"1 {released}"])
    text = ["data_made", "_entry.id made"]
    for table, (columns, rows) in tables.items():
        text += ["#", "loop_", *(f"{table}.{column}" for column in columns), *rows]
    return "\n".join([*text, "#", ""])
