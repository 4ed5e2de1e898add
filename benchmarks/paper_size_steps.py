"""The measurements of `paper_size.py`: one a process, which is told what by a JSON object.

Nothing here is run by hand. Each prints its median seconds in steady state and its peak memory
(`common.measured` reads them); what does not fit in memory prints that instead.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import nibabel as nib
import numpy as np
import psutil
import published_recipe as recipe
import torch
import torch.nn.functional as F
from common import Timer, report
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.config import (
    PRESETS,
    LossConfig,
    MapperConfig,
    Speed,
    StageConfig,
    VAEConfig,
)
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.fit import Stepper
from synbrain_cli.model.layers import sinusoidal_positions
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.readout import Readout
from synbrain_cli.model.step import MapperStep, TrainingStep, VAEStep
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext, default_speed

GRID = (81, 104, 83)
CPU_MEMORY = 24e9  # bytes a measurement on a CPU may take, at most
PAPER = PRESETS["paper"]
Work = Callable[[], Any]


@dataclass(frozen=True)
class Size:
    """Of everything that is measured."""

    vae: VAEConfig
    mapper: MapperConfig
    n_voxels: int
    encoder: str
    batches: tuple[int, ...]
    voxels: tuple[int, ...]


PUBLISHED = Size(
    VAEConfig(),
    MapperConfig(),
    15_724,
    "ViT-bigG-14",
    batches=(1, 2, 4, 8, 24, 48),
    voxels=(1_196, 4_000, 15_724, 30_000),
)
QUICK = Size(
    VAEConfig(16, 64, 32, (1, 2), n_res_blocks=1, ada_length=128, projector_width=64),
    MapperConfig(16, 64, depth=2, n_heads=2),
    300,
    "quick-ViT",
    batches=(1, 2),
    voxels=(100, 300),
)
QUICK_TOWER = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 64,
        "head_width": 32,
        "patch_size": 8,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
}


@dataclass(frozen=True)
class Run:
    """One measurement, in a process of its own: what, how, and where its files are.

    ``version``: "recipe"; "ours", as `synbrain train` computes here; "ours/float32" and
    "ours/bf16", the same without compilation; "ours/response", with the mapper's response loss.
    """

    what: str
    root: str
    device: str
    quick: bool
    version: str = ""
    batch: int = 1
    n_voxels: int = 0
    n_draws: int = 1
    micro_batch: int | None = None
    repeats: int = 1
    keep: bool = False

    @property
    def size(self) -> Size:
        return QUICK if self.quick else PUBLISHED

    @property
    def folder(self) -> Path:
        return Path(self.root)

    @property
    def speed(self) -> Speed:
        default = default_speed(torch.device(self.device))
        named = {"ours/float32": Speed(), "ours/bf16": Speed("bf16")}
        chosen = named.get(self.version, default)
        return msgspec.structs.replace(chosen, micro_batch=self.micro_batch)


# --- Time and memory --------------------------------------------------------------------------


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(work: Work, device: str, repeats: int, warm_up: int, group: int = 1) -> list[float]:
    """Seconds of each of some repeats; of ``group`` calls in a row, divided by their number.

    A GPU is waited for once a group, as it would be in training: rarely.
    """
    for _ in range(warm_up):
        work()
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        with Timer() as timer:
            for _ in range(group):
                work()
            synchronise(device)
        seconds.append(timer.seconds / group)
    return seconds


def tell(run: Run, work: Work, start: Work | None = None, **more: Any) -> None:
    """Time the work and print what `measured` reads.

    On a CPU, where a step takes minutes, the warm-up is ``start``: the same of one item. Seconds of
    its cores are told beside, as others may use them, too.
    """
    cuda = run.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        seconds = timed(work, run.device, 5 * run.repeats, warm_up=5, group=4)
        more["peak_gpu_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
        more["reserved_gpu_gigabytes"] = torch.cuda.max_memory_reserved() / 1e9
    else:
        (start or work)()
        before = time.process_time()
        seconds = timed(work, run.device, run.repeats, warm_up=0)
        more["processor_seconds"] = (time.process_time() - before) / run.repeats
    report(statistics.median(seconds), repeats=seconds, **more)


def limit_memory() -> int:
    """Have the allocator refuse what this machine has not, before the system kills for it."""
    limit = int(min(CPU_MEMORY, 0.95 * psutil.virtual_memory().available))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return limit


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and any(s in str(error) for s in ("not enough memory", "allocate memory", "out of memory"))
    )


# --- Inputs -----------------------------------------------------------------------------------


def know_encoder(run: Run) -> None:
    """Make the quick encoder's architecture known to open_clip."""
    if run.quick:
        import open_clip

        path = run.folder / f"{run.size.encoder}.json"
        path.write_text(json.dumps(QUICK_TOWER))
        open_clip.add_model_config(path)


def encoder_spec(run: Run) -> str:
    return f"openclip:{run.size.encoder}/{run.folder / 'tower.pt'}"


def make(run: Run) -> None:
    """Random weights in the published format, and the bundle that they are imported to."""
    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.pipeline.import_weights import ImportSettings, import_published
    from synbrain_cli.progress import Progress

    torch.manual_seed(0)
    size, root = run.size, run.folder
    vae = recipe.BrainVAE(size.vae).state_dict()
    torch.save({"epoch": 0, "model": {f"module.{k}": v for k, v in vae.items()}}, root / "last.pth")
    mapper = recipe.Mapper(size.mapper)
    mapper.pos_embed.data[0] = sinusoidal_positions(*mapper.pos_embed.shape[1:])
    settings = argparse.Namespace(model_head=size.mapper.n_heads, prediction="x")
    torch.save({"ema": mapper.state_dict(), "args": settings, "steps": 0}, root / "last.pt")
    del vae, mapper
    if run.version == "with encoder":
        know_encoder(run)
        tower = recipe.vision_tower(size.encoder)
        torch.save({k: v.half() for k, v in tower.state_dict().items()}, root / "tower.pt")
        del tower
    inside = np.zeros(np.prod(GRID), np.uint8)
    inside[-size.n_voxels :] = 1
    nib.save(nib.Nifti1Image(inside.reshape(GRID), np.eye(4)), root / "mask.nii.gz")
    with Timer() as timer:
        settings = ImportSettings(
            root / "last.pth",
            root / "last.pt",
            mask=root / "mask.nii.gz",
            subject="1",
            n_voxels=size.n_voxels,
            encoder=encoder_spec(run) if (root / "tower.pt").exists() else None,
        )
        import_published(Workspace(root), settings, run=RunContext(progress=Progress(quiet=True)))
    report(timer.seconds)


def recipe_networks(run: Run) -> tuple[recipe.BrainVAE, recipe.Mapper]:
    with torch.device("meta"):
        vae, mapper = recipe.BrainVAE(run.size.vae), recipe.Mapper(run.size.mapper)
    state = torch.load(run.folder / "last.pth", weights_only=True)["model"]
    vae.load_state_dict({k.removeprefix("module."): v for k, v in state.items()}, assign=True)
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(run.folder / "last.pt", weights_only=True)["ema"]
    mapper.load_state_dict(state, assign=True)
    mapper.pos_embed.requires_grad_(False)
    return vae.to(run.device), mapper.to(run.device)


def our_brain(run: Run) -> Brain:
    return load_model(run.folder / "weights" / "sub-01_published", run.device)


def our_networks(run: Run) -> tuple[BrainVAE, Mapper]:
    brain = our_brain(run)
    brain.networks.vae.lay_out(None)  # any number of voxels
    brain.networks.vae.measure(None, None)
    return brain.networks.vae, brain.networks.mapper


def batch_of(run: Run, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Responses, tokens and noise: standard normal."""
    generator = torch.Generator().manual_seed(1)
    shape = (n, run.size.vae.n_tokens, run.size.vae.n_dims)
    y = torch.randn(n, run.n_voxels or run.size.n_voxels, generator=generator)
    tokens, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    return y.to(run.device), tokens.to(run.device), noise.to(run.device)


def pictures(n: int) -> list[np.ndarray]:
    """Images as NSD has them: uint8, 425 × 425."""
    return list(np.random.default_rng(0).integers(0, 256, (n, 425, 425, 3), np.uint8))


def keep(run: Run, **arrays: Tensor | np.ndarray) -> None:
    """For `errors`: what this version computes."""
    np.savez(
        run.folder / f"{run.what}_{run.version.replace('/', '_')}.npz",
        **{k: torch.as_tensor(v).detach().double().cpu().numpy() for k, v in arrays.items()},
    )


def with_gradient(loss: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """A loss, and its gradient in its inputs: all that goes back has gone through the network."""
    inputs = tuple(x.requires_grad_() for x in inputs)
    value = loss(*inputs)
    value.backward()
    return value, torch.cat([x.grad.flatten() for x in inputs])


# --- What is measured -------------------------------------------------------------------------


def vae_step(run: Run) -> None:
    """A training step of BrainVAE; both minimise the published loss, ours over V."""
    n_voxels = run.n_voxels or run.size.n_voxels
    batch, few = batch_of(run, run.batch), batch_of(run, 2)
    one = tuple(x[:1] for x in batch)
    said: list[str] = []
    if run.version == "recipe":
        vae, _ = recipe_networks(run)
        if run.keep:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                y, tokens, noise = few
                loss, gradient = with_gradient(
                    lambda y, noise: recipe.vae_loss(vae, y, tokens, noise), y, noise
                )
                output = vae.decode(vae.encode(y)[0], n_voxels)
            keep(run, loss=loss, gradient=gradient, output=output)
        training = recipe.VAETraining(vae)
        work, start = (lambda: training.step(*batch)), (lambda: training.step(*one))
    else:
        vae, _ = our_networks(run)
        n_dims = run.size.vae.n_tokens * run.size.vae.n_dims
        loss_config = LossConfig(
            kl=recipe.KL_WEIGHT * n_dims / n_voxels, clip=recipe.CLIP_WEIGHT / n_voxels
        )
        step = VAEStep(vae, loss_config)
        stepper = our_stepper(run, step, vae, PAPER.vae_stage, said)
        if run.keep:
            y, tokens, noise = few
            loss, gradient = with_gradient(lambda y, noise: step(y, tokens, noise), y, noise)
            with torch.autocast(y.device.type, torch.bfloat16, step.precision == "bf16"):
                output = vae.decode(vae.encode(y).mean, n_voxels)
            keep(run, loss=loss * n_voxels, gradient=gradient * n_voxels, output=output)
        work = lambda: stepper(batch, recipe.LEARNING_RATE)  # noqa: E731
        start = lambda: stepper(one, recipe.LEARNING_RATE)  # noqa: E731
    tell(run, work, start, **told(run, said))


def s2n_step(run: Run) -> None:
    """A training step of the mapper: the recipe encodes the trial, ours knows its target."""
    batch, few = batch_of(run, run.batch), batch_of(run, 2)
    said: list[str] = []
    if run.version == "recipe":
        vae, mapper = recipe_networks(run)
        if run.keep:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                y, tokens, _ = few
                loss, gradient = with_gradient(
                    lambda tokens: recipe.mapper_loss(mapper, vae, y, tokens), tokens
                )
                output = mapper(tokens)
            keep(run, loss=loss, gradient=gradient, output=output)
        training = recipe.MapperTraining(mapper, vae)
        y, tokens, _ = batch
        work, start = (lambda: training.step(y, tokens)), (lambda: training.step(y[:1], tokens[:1]))
    else:
        vae, mapper = our_networks(run)
        vae.requires_grad_(False)
        y, tokens, noise = batch
        config = PAPER.loss if run.version == "ours/response" else LossConfig(response=0)
        one_variance, latent_sd = torch.ones((), device=run.device), torch.ones_like(noise[0])
        step = MapperStep(mapper, vae, config, one_variance, latent_sd, y.shape[1])
        stepper = our_stepper(run, step, mapper, PAPER.mapper_stage, said)
        if run.keep and run.version != "ours/response":
            y, tokens, noise = few
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                targets = vae.encode(y).mean
            loss, gradient = with_gradient(lambda tokens: step(tokens, targets, y, noise), tokens)
            with torch.autocast(y.device.type, torch.bfloat16, step.precision == "bf16"):
                output = mapper(tokens)
            keep(run, loss=loss, gradient=gradient, output=output)
        y, tokens, noise = batch
        known = (tokens, torch.randn_like(tokens), y, noise)
        one = tuple(x[:1] for x in known)
        work = lambda: stepper(known, recipe.LEARNING_RATE)  # noqa: E731
        start = lambda: stepper(one, recipe.LEARNING_RATE)  # noqa: E731
    tell(run, work, start, **told(run, said))


class Kept(Progress):
    """Progress whose messages are kept in a list."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(quiet=True)
        self.messages = messages

    def info(self, message: str) -> None:
        self.messages.append(message)


def our_stepper(
    run: Run, step: TrainingStep, network: nn.Module, stage: StageConfig, said: list[str]
) -> Stepper:
    network.train()
    parameters = list(network.parameters())
    context = RunContext(device=torch.device(run.device), speed=run.speed, progress=Kept(said))
    return Stepper(step, network, parameters, stage, context)


def told(run: Run, said: list[str]) -> dict[str, Any]:
    """How ours was computed, and what it had to change: the list fills up while it runs."""
    return {} if run.version == "recipe" else {"speed": run.speed.to_dict(), "said": said}


def targets(run: Run) -> None:
    """Ours, before stage 2: posteriors of a batch of trials, which are then kept."""
    vae, _ = our_networks(run)
    y, _, _ = batch_of(run, run.batch)

    @torch.no_grad()
    def work() -> None:
        with torch.autocast(y.device.type, torch.bfloat16, run.speed.precision == "bf16"):
            vae.encode(y).mean.float().cpu()

    tell(run, work, work if y.is_cuda else (lambda: None))


def tokens(run: Run) -> None:
    """Tokens of images in memory, on the CPU in the end."""
    know_encoder(run)
    images = pictures(run.batch)
    if run.version == "recipe":
        tower = recipe.vision_tower(run.size.encoder, run.folder / "tower.pt").to(run.device)
        extract = lambda images: recipe.extract_tokens(tower, images).cpu()  # noqa: E731
        more = {"precision": "float32"}
    else:
        encoder = load_encoder(encoder_spec(run), run.device)
        extract = lambda images: encoder(images).bands[0]  # noqa: E731
        more = {"precision": encoder.precision}
    if run.keep:
        keep(run, output=extract(images[:1]))
    tell(run, lambda: extract(images), lambda: extract(images[:1]), **more)


def synthesis(run: Run) -> None:
    """Images → draws: the published ones (noise in the latent, each decoded), or calibrated."""
    know_encoder(run)
    images = pictures(run.batch)
    n_voxels = run.size.n_voxels
    if run.version == "recipe":
        tower = recipe.vision_tower(run.size.encoder, run.folder / "tower.pt").to(run.device)
        vae, mapper = recipe_networks(run)

        def draw(n_draws: int, factor: float) -> np.ndarray:
            return recipe.synthesize(tower, mapper, vae, images, n_voxels, n_draws, factor)
    else:
        brain = our_brain(run)
        readout = random_readout(n_voxels)

        def draw(n_draws: int, factor: float) -> np.ndarray:
            if run.version == "ours/calibrated":
                drawing = Drawing(n_draws)
                means = brain.mean(images)
                return np.stack(
                    [brain.draw_around(m, str(i), drawing, readout) for i, m in enumerate(means)]
                )
            return brain.draw(np.stack(images), n_draws, sampling="latent", noise_factor=factor)

    if run.keep and run.version != "ours/calibrated":
        output = draw(1, 0.0)
        keep(run, output=output if run.version == "recipe" else output / brain.response_sd)
    tell(run, lambda: draw(run.n_draws, 1.0), lambda: draw(1, 1.0))


def random_readout(n_voxels: int) -> Readout:
    """Of the size that NSD's have: 16 factors of signal and of noise."""
    rng = np.random.default_rng(0)
    readout = Readout.gaussian(np.ones(n_voxels, np.float32))
    loadings = rng.standard_normal((2, n_voxels, 16), np.float32) * np.float32(0.1)
    part = [LowRank(some, np.ones(n_voxels, np.float32)) for some in loadings]
    return Readout(part[0], part[1], *list(vars(readout).values())[2:])


def peaks(run: Run) -> None:
    """The most that is reached here: operations a second of a large product, bytes of a copy."""
    cuda, group = run.device.startswith("cuda"), 10 if run.device.startswith("cuda") else 1
    found: dict[str, float] = {}
    n = 256 if run.quick else 8192 if cuda else 4096
    kinds = {"float32": torch.float32, "bf16": torch.bfloat16}
    for name, dtype in (kinds | ({"tf32": torch.float32} if cuda else {})).items():
        n_here = n if cuda or name == "float32" else n // 4  # most CPUs emulate bf16
        a, b = (torch.randn(n_here, n_here, device=run.device).to(dtype) for _ in range(2))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        seconds = min(timed(lambda a=a, b=b: a @ b, run.device, 7, 3, group))
        torch.set_float32_matmul_precision(before)
        found[f"{name}_teraflops"] = 2 * n_here**3 / seconds / 1e12
    source = torch.randn((1 << 20) if run.quick else (1 << 28), device=run.device)
    target = torch.empty_like(source)
    seconds = min(timed(lambda: target.copy_(source), run.device, 7, 3, group))
    found["copy_gigabytes_per_second"] = 2 * source.nbytes / seconds / 1e9  # read and written
    report(seconds, **found)


def attention(run: Run) -> None:
    """Milliseconds, forward and backward, of each backend at the two networks' shapes."""
    vae, mapper = run.size.vae, run.size.mapper
    width = vae.channels * vae.multipliers[-1]
    shapes = {
        "vae": (run.batch, 1, vae.hidden_length, width),
        "s2n": (run.batch, mapper.n_heads, mapper.n_tokens, mapper.n_dims // mapper.n_heads),
    }
    backends = ("MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION", "CUDNN_ATTENTION")
    found: dict[str, Any] = {}
    for network, shape in shapes.items():
        for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
            q, k, v = (
                torch.randn(shape, device=run.device, dtype=dtype, requires_grad=True)
                for _ in range(3)
            )

            def work(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> None:
                torch.autograd.grad(F.scaled_dot_product_attention(q, k, v).sum(), (q, k, v))

            for backend in backends:
                with sdpa_kernel(getattr(SDPBackend, backend)):
                    found[f"{network} {name} {backend}"] = milliseconds(work, run.device)
    report(0.0, milliseconds=found)


def convolution(run: Run) -> None:
    """Milliseconds, forward and backward, of BrainVAE's convolutions in two layouts."""
    vae = run.size.vae
    widths = [vae.channels * m for m in vae.multipliers]
    cases = {(widths[0], vae.ada_length, 3), (widths[-1], vae.hidden_length, 3)}
    cases |= {(widths[0], vae.ada_length, 7), (widths[-1], vae.hidden_length, 7)}
    found: dict[str, Any] = {}
    for channels, length, kernel in sorted(cases):
        for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
            shape = (run.batch, channels, length)
            x = torch.randn(shape, device=run.device, dtype=dtype, requires_grad=True)
            w = torch.randn(channels, channels, kernel, device=run.device, dtype=dtype)
            w.requires_grad_()
            flat = x.detach().unsqueeze(2).contiguous(memory_format=torch.channels_last)
            flat.requires_grad_()
            w2 = w.detach().unsqueeze(2).contiguous(memory_format=torch.channels_last)
            w2.requires_grad_()
            half = kernel // 2

            def ncl(x: Tensor = x, w: Tensor = w, half: int = half) -> None:
                h = F.conv1d(x, w, padding=half)
                torch.autograd.grad(h, (x, w), torch.ones_like(h))

            def channels_last(x: Tensor = flat, w: Tensor = w2, half: int = half) -> None:
                h = F.conv2d(x, w, padding=(0, half))
                torch.autograd.grad(h, (x, w), torch.ones_like(h))

            case = f"{channels} channels, length {length}, width {kernel}, {name}"
            found[f"{case}: NCL"] = milliseconds(ncl, run.device)
            found[f"{case}: channels last"] = milliseconds(channels_last, run.device)
    report(0.0, milliseconds=found)


def milliseconds(work: Work, device: str) -> float | str:
    """Median of 7 after 3, or why not."""
    try:
        return 1e3 * statistics.median(timed(work, device, 7, 3, 10 if device != "cpu" else 1))
    except RuntimeError as error:
        return str(error).splitlines()[0]


STEPS = {
    "make": make,
    "peaks": peaks,
    "vae": vae_step,
    "s2n": s2n_step,
    "targets": targets,
    "tokens": tokens,
    "synthesis": synthesis,
    "attention": attention,
    "convolution": convolution,
}


def main() -> None:
    run = Run(**json.loads(sys.argv[1]))
    limit = None if run.device.startswith("cuda") else limit_memory()
    try:
        STEPS[run.what](run)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(json.dumps({"out_of_memory": True, "limit_gigabytes": limit and limit / 1e9}))


if __name__ == "__main__":
    main()
