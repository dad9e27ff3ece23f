"""Whatever is computed and kept is an artefact: of a kind, made from something, sealed, verified when it is read.

    key        what it was made from, derived from objects, and its hash
    sealed     JSON that notices when it was edited: notes, scores, selections
    payload    checksums of files, remembered while a file does not change
    kept       a file with its note: checkpoints, directions, subspaces
    lock       one writer at a time in a folder

Feature shards (:mod:`siftune.features.store`) are made of the same parts. Payloads are checked with XXH3 (128 bits,
faster than a disk), keys and seals are BLAKE2b: they find damage, mistakes and edits, not a forger who seals anew.
"""

from siftune._common.artefacts.kept import KeptFile, keep_file, kept_file
from siftune._common.artefacts.key import described, digest, first_difference
from siftune._common.artefacts.lock import is_held, working_in
from siftune._common.artefacts.payload import Payload, payload_of
from siftune._common.artefacts.sealed import (
    Absent,
    Damaged,
    MadeFromOther,
    Unusable,
    read_sealed,
    read_usable,
    write_sealed,
)

__all__ = ["Absent", "Damaged", "KeptFile", "MadeFromOther", "Payload", "Unusable", "described", "digest",
           "first_difference", "is_held", "keep_file", "kept_file", "payload_of", "read_sealed", "read_usable",
           "working_in", "write_sealed"]
