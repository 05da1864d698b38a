"""What an engine serves and where: settings that a client writes and the engine reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from woodshed.engine.client.gpus import gpu_ids, spread
from woodshed.engine.client.provision import has_gpu
from woodshed.engine.client.ray_cluster import check_address
from woodshed.errors import ConfigError
from woodshed.types import Settings, TrainerKind

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")

_GGUF_MAGIC = b"GGUF"

LoraRank = Literal[8, 16, 32, 64, 128, 256]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
GpuSharing = Literal["split", "sleep"]


class ServedModel(Settings):
    """One model that the engine serves, with a vLLM server of its own."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """The model name in calls: `policy`, `judge`, …"""
    path: str
    """A folder with `config.json`, weights and tokenizer, a GGUF file, or a name on the Hugging Face hub."""
    trainable: bool = False
    """Whether a LoRA of it can be trained and swapped in."""
    adapter: str | None = None
    """Folder of a PEFT LoRA that is always applied, such as a judge's; only for models that are not trained."""
    dtype: Dtype = "auto"
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt plus answer in tokens; None means the value in the model's own config."""
    max_num_seqs: int = Field(default=64, ge=1)
    """How many calls are decoded at the same time; further ones wait."""
    max_lora_rank: LoraRank = 16
    lora_slots: int = Field(default=3, ge=2)
    """Versions of the trained LoRA that one batch can mix: `max_staleness + 2`, those that rollouts of one step have
    and one for calls that began before. Calls of a further version wait until those of one of them have ended."""
    tool_call_parser: str | None = "auto"
    """vLLM's name of the tool-call format; `auto` is the one that the model's chat template writes, and none where the
    template knows no tools. None turns tool calls off."""
    reasoning_parser: str | None = None
    """vLLM's name of the format of thoughts, such as `qwen3`; None leaves them in the answer."""
    chat_template: str | None = None
    """Path of a Jinja file that replaces the tokenizer's own template."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Memory for the KV cache in GiB on a machine without a GPU; None means enough for all calls, at most 4."""
    gpu_memory_fraction: float = Field(default=0.4, gt=0, le=1)
    """Share of the GPU's memory that this model's vLLM takes when it starts; the trainer uses what is left."""
    gpu_sharing: GpuSharing = "split"
    """How vLLM and the trainer share a GPU. `split`: each has its part all the time. `sleep`: they take turns; vLLM's
    weights wait in main memory while a step is taken, and its calls wait, too (docs/one_gpu.md)."""
    replicas: int = Field(default=1, ge=1, le=64)
    """How many vLLM servers serve the model, on this machine; a rollout stays on one (docs/replicas.md)."""
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    """GPUs that each of its servers is spread over; 1 on a machine without a GPU."""

    def server_names(self) -> tuple[str, ...]:
        """Return the name of each of its servers: its own where there is one, else such as `policy#2`."""
        return (self.name,) if self.replicas == 1 else tuple(f"{self.name}#{n + 1}" for n in range(self.replicas))

    def is_hub_name(self) -> bool:
        """Whether `path` is a name on the hub: it looks like `owner/model`, and no such folder exists."""
        return bool(_HUB_NAME.match(self.path)) and not self.is_gguf() and not Path(self.path).is_dir()

    def is_gguf(self) -> bool:
        """Whether `path` is a GGUF file, which the engine converts into a folder before it serves it."""
        return self.path.endswith(".gguf")


class Trainers(Settings):
    """The processes that train a policy."""

    count: int = Field(default=1, ge=1)
    """How many share the work of each step, with a GPU each where there are any. A run may go on with another number:
    gradient and checkpoints are those of one."""
    shard_base: bool = False
    """Whether the base model is split over them (FSDP2), because one card cannot hold it. Slower: each gathers a layer
    at a time from the others. Each still loads the whole model into main memory first."""
    ray: str | None = None
    """Address of the Ray cluster whose nodes they run on, as a node of it can use it; None for this machine."""

    def __init__(self, **values: Any) -> None:
        """Refuse to split over one."""
        super().__init__(**values)
        if self.shard_base and self.count == 1:
            raise ConfigError("shard_base=True splits the base model over trainers; set trainers=2 or more")


class EngineConfig(Settings):
    """Everything `python -m woodshed.engine` needs to know."""

    home: Path
    """Folder for logs, the call store and checkpoints."""
    models: tuple[ServedModel, ...]
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    """0 lets the system choose a free one."""
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    """Names under which a proxy in front of a loopback engine reaches it, such as `engine.example.com`."""
    trainers: Trainers = Trainers()
    ray: str | None = None
    """Address of the Ray cluster that the vLLM servers are placed on, as `ray.init` takes it; `local` starts one on
    this machine for the engine's life. None uses this machine alone, and no Ray."""
    parent_pid: int | None = None
    """The engine shuts down when the process with this id is no longer its parent."""


def check_config(config: EngineConfig) -> EngineConfig:
    """Return `config` with absolute paths, after checking it before anything is started.

    Raises:
        ConfigError: There is no model, two have one name, a folder holds no model, other machines can reach the engine
            without a key, or the models take more of the GPU's memory than there is.
    """
    if not config.models:
        raise ConfigError("the engine was given no model to serve; name at least one, such as {'policy': './my-model'}")
    names = [model.name for model in config.models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"models {twice} are named more than once; each needs a name of its own")
    if config.host not in LOOPBACK and not config.api_key:
        raise ConfigError(
            f"host {config.host!r} is reachable from other machines and no api_key is set; "
            "set one, or listen on 127.0.0.1"
        )
    if config.ray is None:
        check_sharing(config.models, config.trainers.count)
        check_split(config.models, len(gpu_ids()), config.trainers.count)
    else:
        check_address(config.ray)
        check_no_sleep(config.models)
    home = config.home.expanduser().absolute()
    return config.model_copy(update={"home": home, "models": tuple(check_model(model) for model in config.models)})


def check_trainer(trainer: TrainerKind, load_in_4bit: bool) -> None:
    """Check, before an engine is started on this machine, that it can train as requested.

    Raises:
        ConfigError: Unsloth is requested and there is no NVIDIA GPU.
    """
    if (trainer == "unsloth" or load_in_4bit) and not has_gpu():
        setting = "trainer='unsloth'" if trainer == "unsloth" else "load_in_4bit=True"
        raise ConfigError(
            f"{setting} needs an NVIDIA GPU, and no driver answers here (nvidia-smi -L); use trainer='auto' and "
            "load_in_4bit=False, or an engine on a machine with one: Engine.connect(url)"
        )


def check_sharing(models: Sequence[ServedModel], trainers: int = 1) -> None:
    """Check that vLLM can sleep where it is to.

    Raises:
        ConfigError: A model is to sleep, and there is no NVIDIA GPU, or there are several trainers.
    """
    sleeping = [model.name for model in models if model.gpu_sharing == "sleep"]
    if sleeping and not has_gpu():
        raise ConfigError(
            f"gpu_sharing='sleep' (models {sleeping}) needs an NVIDIA GPU, and no driver answers here (nvidia-smi -L): "
            "vLLM's CPU build cannot sleep. Leave gpu_sharing out; without a GPU nothing is shared"
        )
    if sleeping and trainers > 1:
        raise ConfigError(
            f"gpu_sharing='sleep' (models {sleeping}) takes turns with one trainer, and trainers is {trainers}: "
            "use one, or gpu_sharing='split'"
        )


def check_no_sleep(models: Sequence[ServedModel]) -> None:
    """Check that no model takes turns on a GPU with the trainers: on a cluster, they have GPUs of their own.

    Raises:
        ConfigError: One does.
    """
    sleeping = [model.name for model in models if model.gpu_sharing == "sleep"]
    if sleeping:
        raise ConfigError(
            f"gpu_sharing='sleep' (models {sleeping}) takes turns on one GPU of this machine, and on a Ray cluster "
            "replicas and trainers have GPUs of their own; leave gpu_sharing out"
        )


def check_split(models: Sequence[ServedModel], count: int = 1, trainers: int = 1) -> None:
    """Check that the models fit on the `count` GPUs that they share with the trainers, which take the first of them.

    Raises:
        ConfigError: A server is to be spread over more GPUs than there are, or there are more trainers; or those on one
            GPU take more of it than there is, or leave less than a tenth to a trainer that needs some.
    """
    if count and trainers > count:
        raise ConfigError(
            f"trainers is {trainers}, each needs a GPU of its own, and this machine has {count}: expected no more"
        )
    for model in models:
        if model.tensor_parallel > max(count, 1):
            raise ConfigError(
                f"model {model.name!r}: tensor_parallel is {model.tensor_parallel}, and this machine has "
                + (f"{count} GPUs; expected at most {count}" if count else "no GPU; expected 1: use replicas instead")
            )
    placed = gpus_of(models, count)
    shares = {name: model.gpu_memory_fraction for model in models for name in model.server_names()}
    for gpu in range(count):
        here = {name: share for name, share in shares.items() if gpu in placed[name]}
        is_split = any(model.trainable and model.gpu_sharing == "split" for model in models)
        taken, limit = sum(here.values()), 0.9 if gpu < trainers and is_split else 1.0
        if taken > limit + 1e-9:
            raise ConfigError(
                f"the models' gpu_memory_fraction add up to {taken:g} "
                f"({', '.join(f'{name} {share:g}' for name, share in here.items())})"
                + (f" on GPU {gpu} of {count}" if len(models) < len(shares) or count > 1 else "")
                + f"; at most {limit:g} can be given away"
                + (", the rest is the trainer's" if limit < 1 else "")
                + ". Lower them with ServedModel(gpu_memory_fraction=...)"
                + (", or serve fewer replicas" if len(models) < len(shares) else "")
            )


def gpus_of(models: Sequence[ServedModel], count: int) -> dict[str, tuple[int, ...]]:
    """Return server → indices of its GPUs, of `count`."""
    wanted = {name: (m.tensor_parallel, m.gpu_memory_fraction) for m in models for name in m.server_names()}
    return spread(wanted, count)


def check_model(model: ServedModel) -> ServedModel:
    """Return `model` with absolute paths, after checking that its folders hold a model and an adapter.

    Raises:
        ConfigError: A folder or the chat template does not exist, a folder lacks its config file, or a model with a
            fixed adapter is trainable.
    """
    if model.chat_template is not None:
        model = model.model_copy(update={"chat_template": _checked_template(model, model.chat_template)})
    if model.adapter is not None:
        if model.trainable:
            raise ConfigError(
                f"model {model.name!r} is trained and has the fixed adapter {model.adapter!r}; start its training from "
                "an adapter with Policy(adapter=...), or serve it with trainable=False"
            )
        adapter = _checked(model, model.adapter, "adapter_config.json", "give the folder that PEFT saved")
        model = model.model_copy(update={"adapter": adapter})
    if model.is_hub_name():
        return model
    if model.is_gguf():
        return model.model_copy(update={"path": _checked_gguf(model)})
    hint = "give a folder with config.json and weights, a GGUF file, or a hub name such as 'Qwen/Qwen2.5-3B-Instruct'"
    return model.model_copy(update={"path": _checked(model, model.path, "config.json", hint)})


def _checked(model: ServedModel, path: str, config: str, hint: str) -> str:
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"model {model.name!r}: there is no folder {path!r}; {hint}")
    if not (folder / config).is_file():
        contents = sorted(entry.name for entry in folder.iterdir())[:8]
        raise ConfigError(f"model {model.name!r}: {path!r} has no {config} (it holds {contents or 'nothing'})")
    return str(folder)


def _checked_template(model: ServedModel, path: str) -> str:
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise ConfigError(
            f"model {model.name!r}: there is no chat template {path!r}; give the path of a Jinja file, or leave "
            "chat_template out to use the model's own"
        )
    return str(file)


def _checked_gguf(model: ServedModel) -> str:
    file = Path(model.path).expanduser().absolute()
    if not file.is_file():
        raise ConfigError(f"model {model.name!r}: there is no file {model.path!r}; give the path of a GGUF file")
    with file.open("rb") as opened:
        found = opened.read(len(_GGUF_MAGIC))
    if found != _GGUF_MAGIC:
        raise ConfigError(
            f"model {model.name!r}: {model.path!r} is no GGUF file: it begins with {found!r}, not {_GGUF_MAGIC!r}. A "
            "file fetched with Git LFS may be a pointer of a few lines; fetch the file itself"
        )
    return str(file)


def to_models(models: Mapping[str, str | ServedModel]) -> tuple[ServedModel, ...]:
    """Return served models from `{name: path or ServedModel}`; the key wins over the model's own name."""
    return tuple(
        ServedModel(name=name, path=model) if isinstance(model, str) else model.model_copy(update={"name": name})
        for name, model in models.items()
    )
