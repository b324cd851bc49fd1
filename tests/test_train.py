from __future__ import annotations

from mlops.core.records import Parameter
from mlops.train import display_name, run_key


def parameters(**values: str) -> tuple[Parameter, ...]:
    return tuple(Parameter(name=name, value=value, source="default") for name, value in values.items())


def test_the_display_name_tells_what_was_done() -> None:
    given = parameters(
        per_device_train_batch_size="2",
        gradient_accumulation_steps="4",
        number_of_gpu_to_use_finetuning="8",
        num_nodes_finetune="2",
        lr_scheduler_type="cosine",
        apply_deepspeed="true",
        deepspeed_stage="3",
        apply_lora="true",
        save_total_limit="1",
        max_seq_length="2048",
    )
    assert (
        display_name("Phi-4", "HuggingFaceH4/ultrachat_200k", given) == "Phi-4-ultrachat_200k-bs128-cosine-ds3-lora-save_limit1-seqlen2048"
    )


def test_the_display_name_of_bare_defaults() -> None:
    assert display_name("Phi-4", "data/mine.jsonl", ()) == "Phi-4-mine-bs1-linear-nods-nolora-save_limit-1-seqlen-1"


def test_the_run_key_changes_with_everything_that_decides_the_result_and_with_nothing_else() -> None:
    def key(component: str = "c", base: str = "b", size: str = "s", data: str = "d", **values: str) -> str:
        return run_key(component, base, parameters(**{"seed": "1", "compute_finetune": "x", **values}), size, data)

    keys = [key(), key(component="c2"), key(base="b2"), key(size="s2"), key(data="d2"), key(seed="2"), key(apply_lora="true")]
    assert len(set(keys)) == len(keys)
    # The same cluster under another name makes the same model.
    assert key(compute_finetune="y") == key()


def test_the_run_key_does_not_depend_on_order_or_source() -> None:
    one = (Parameter(name="a", value="1", source="default"), Parameter(name="b", value="2", source="default"))
    two = (Parameter(name="b", value="2", source="command line"), Parameter(name="a", value="1", source="pipeline.toml"))
    assert run_key("c", "b", one, "s", "d") == run_key("c", "b", two, "s", "d")
