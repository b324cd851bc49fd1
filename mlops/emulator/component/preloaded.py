"""The imports of this package's processes (component steps and containers), which a fork server makes once for all of them."""

from __future__ import annotations

import importlib

from mlops.emulator.base import libraries

__all__ = ["IMPORTS"]

IMPORTS = (
    "pandas", "mlflow.pyfunc", "torch", "torch.utils.data", "safetensors.torch", "tokenizers", "transformers.optimization",
    "transformers.modeling_utils", "transformers.generation", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama", "transformers.models.phi3.modeling_phi3",
    "peft", "mlops.emulator.component.finetune", "mlops.emulator.component.packaging",
)  # fmt: skip

libraries.configure()
libraries.hide_mlflow_plugin()
for name in IMPORTS:
    importlib.import_module(name)
