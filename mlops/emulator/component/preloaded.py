"""What the processes of this package import: steps of the component, and containers. A fork server imports it once for all of them."""

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
