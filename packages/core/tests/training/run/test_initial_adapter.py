"""A LoRA to start from is found and checked before any engine is started."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import woodshed
from woodshed.training.run.initial_adapter import initial_adapter

LORA = woodshed.LoraSettings(rank=8, alpha=16)


def written(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made = {"r": 8, "lora_alpha": 16, "target_modules": list(LORA.targets), "base_model_name_or_path": "m/base"}
    (folder / "adapter_config.json").write_text(json.dumps({**made, **changes}))
    return folder


def found(adapter: Path, **policy: object) -> str | None:
    return initial_adapter(
        woodshed.Policy("m/base", lora=LORA, adapter=str(adapter), **policy), woodshed.Engine.local()
    )


def test_the_folder_of_a_warm_up_or_of_a_lora_is_found(tmp_path: Path) -> None:
    adapter = written(tmp_path / "sft" / "adapter")

    assert found(tmp_path / "sft") == found(adapter) == str(adapter)
    assert initial_adapter(woodshed.Policy("m/base"), woodshed.Engine.local()) is None


def test_a_place_that_is_not_here_is_the_engines_own_where_the_engine_is_elsewhere() -> None:
    policy = woodshed.Policy("m/base", adapter="/there/adapter")

    assert initial_adapter(policy, woodshed.Engine.connect("http://gpu-box:8900")) == "/there/adapter"
    with pytest.raises(woodshed.ConfigError, match=r"'/there/adapter', which holds no adapter_config\.json"):
        initial_adapter(policy, woodshed.Engine.local())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": 4}, r"was made with \{'r': 4.*LoraSettings\(rank=4"),
        ({"lora_alpha": 8}, "'lora_alpha': 8"),
        ({"target_modules": ["q_proj"]}, r"targets=\('q_proj',\)"),
        ({"base_model_name_or_path": "m/other"}, "belongs to 'm/other', and the policy's model is 'm/base'"),
    ],
)
def test_a_lora_made_otherwise_is_refused_with_both_settings(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    with pytest.raises(woodshed.ConfigError, match=said):
        found(written(tmp_path, **change))


def test_a_lora_of_a_gguf_file_is_known_by_the_files_hash(tmp_path: Path) -> None:
    file, renamed, other = (tmp_path / name for name in ("model.gguf", "renamed.gguf", "other.gguf"))
    for path, content in ((file, b"GGUF one"), (renamed, b"GGUF one"), (other, b"GGUF two")):
        path.write_bytes(content)
    # The trainer knows the folder that the file was converted to, which is named by its hash.
    converted = f"/cache/gguf/{hashlib.sha256(b'GGUF one').hexdigest()}"
    adapter = written(tmp_path / "adapter", base_model_name_or_path=converted)

    def start(model: str, engine: object = None) -> str | None:
        policy = woodshed.Policy(model, lora=LORA, adapter=str(adapter))
        return initial_adapter(policy, engine or woodshed.Engine.local())  # type: ignore[arg-type]

    assert start(str(file)) == start(str(renamed)) == str(adapter)
    assert start("/there/model.gguf", woodshed.Engine.connect("http://gpu-box:8900")) == str(adapter)
    with pytest.raises(woodshed.ConfigError, match=r"belongs to '/cache/gguf/.*other\.gguf"):
        start(str(other))
