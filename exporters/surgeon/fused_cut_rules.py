"""How cuts go through attention operators and ONNX Runtime's fused operators."""

from __future__ import annotations

from exporters.surgeon.cut_rules import Rule

FUSED_CUT_RULES: dict[str, Rule] = {}
