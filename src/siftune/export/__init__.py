"""Hand a selected subset to a trainer: TRL, LLaMA-Factory, Axolotl, or plain JSONL."""

from siftune.export.export import TARGETS, Exported, export

__all__ = ["TARGETS", "Exported", "export"]
