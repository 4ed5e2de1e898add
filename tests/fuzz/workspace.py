"""The tiny workspace that mutants are copies of: every kind of file that the program reads.

Three simulated subjects (127 voxels, 75 images), an experiment on a surface and one in a volume,
models of every kind, their responses, scores, comparisons, and interrupted runs. Made by the
program's own commands, about a minute; a folder given with ``--base`` is made once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import scipy.io
from PIL import Image
from process import Ended, command, dying, run
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples" / "images"
GRID, N_IMAGES, N_TRIALS = (5, 4, 3), 24, 72
N_FSAVERAGE5 = 10242
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SUFFIXES = ("png", "jpg", "tif", "webp", "gif", "bmp")
SHARES = ("--test", "0.25", "--validation", "0.25")
GABOR = ("--encoder", "gabor")
VOLUME = ("--mask", "user/mask.nii.gz", *SHARES, "-s", "1", "--images", "user/images")
SURFACE = (
    *("--mask", "user/lh-mask.mgh", "--mask", "user/rh-mask.mgh", "--space", "fsaverage5"),
    *(*SHARES, "-s", "1", "--images", "user/images"),
)
TOWER = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
}
OPEN_CLIP = "openclip:fuzz-ViT/user/tower/tower"


def stamp() -> str:
    """Checksum of the sources that make the workspace."""
    digest = hashlib.sha256()
    paths = sorted((HERE.parents[1] / "synbrain_cli").rglob("*.py"))
    for path in (*paths, Path(__file__), HERE / "process.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def build(base: Path, log: Callable[[str], None]) -> None:
    """Make the workspace in a folder, unless it is there, made by the same sources."""
    mark = base / "made-by.txt"
    if mark.exists() and mark.read_text() == stamp():
        return
    shutil.rmtree(base, ignore_errors=True)
    (base / "ws").mkdir(parents=True)
    builder = _Builder(base / "ws", base / "records", log)
    for part in (simulated, experiments, models, results, interrupted, imported, towers):
        part(builder)
    shutil.rmtree(base / "records")
    mark.write_text(stamp())


@dataclass
class _Builder:
    root: Path
    records: Path
    log: Callable[[str], None]

    def work(self, work: Callable[[], object], folder: Path | None = None) -> Ended:
        return run(work, folder or self.root, self.records)

    def python(self, function: Callable[[Path], None]) -> None:
        """Call a function with the workspace in a child: the parent stays as it is."""
        ended = self.work(lambda: function(self.root))
        if ended.code != 0:
            raise RuntimeError(f"{function.__name__}: {ended.error}")

    def synbrain(self, *arguments: str, folder: Path | None = None) -> None:
        ended = self.work(command([*arguments, "-q"]), folder)
        self.log(f"{ended.seconds:5.1f} s  synbrain {' '.join(arguments)}")
        if ended.code != 0:
            raise RuntimeError(f"synbrain {' '.join(arguments)}: {ended.code}: {ended.error}")

    def interrupt(self, *arguments: str, folder: Path, share: float) -> None:
        """Kill a command at a share of the files that it gives names; 1: at the last."""
        copy = folder.with_name("counted")
        shutil.copytree(folder, copy, symlinks=True)

        def count() -> None:
            with dying(10**6):
                command([*arguments, "-q"])()

        counted = self.work(count, copy)
        shutil.rmtree(copy)
        if counted.code != 0:
            raise RuntimeError(f"synbrain {' '.join(arguments)}: {counted.error}")
        at = max(1, round(share * int(counted.error.split()[-1])))

        def die() -> None:
            with dying(at):
                command([*arguments, "-q"])()

        ended = self.work(die, folder)
        self.log(f"{ended.seconds:5.1f} s  synbrain {' '.join(arguments)}, killed at {at}")
        for lock in folder.rglob(".*.lock"):
            lock.unlink()


# ------------------------------------------------------------------------------------ parts


def simulated(make: _Builder) -> None:
    """``simulated/`` as NSD's tree, in every space, and three prepared subjects."""

    def prepare(root: Path) -> None:
        from synbrain_cli.datasets.simulated import SimulationConfig
        from synbrain_cli.io.workspace import Workspace
        from synbrain_cli.pipeline.prepare import prepare_simulated
        from synbrain_cli.pipeline.preparing import Target
        from synbrain_cli.progress import Progress
        from synbrain_cli.run import RunContext

        config = SimulationConfig(
            n_shared=24, n_unique=51, n_repeats=3, n_sessions=3, voxel_size=14.0, seed=3
        )
        quiet = RunContext(progress=Progress(quiet=True))
        prepare_simulated(Target(Workspace(root), "simulated", ("gabor", "pixels")), config, quiet)

    def show(root: Path) -> None:
        """Artificial images, in files of NSD-synthetic, and a model's other dataset."""
        from synbrain_cli.datasets.simulated import simulate_artificial

        simulate_artificial(root / "simulated")

    def tree(root: Path) -> None:
        """A copy of subject 1 in NSD's other formats and spaces."""
        import nsd_tree

        from synbrain_cli.datasets.nsd_files import NSD

        shutil.copytree(root / "simulated", root / "nsd")
        for path in (root / "nsd").rglob("subj0[23]"):
            shutil.rmtree(path)
        nsd = NSD(root / "nsd")
        nsd_tree.write_surfaces(nsd, 1)
        nsd_tree.write_stimulus_table(nsd)

    make.python(prepare)
    make.python(show)
    make.python(tree)
    artificial = ("--set", "synthetic", "--root", "simulated", "-s", "1", "--no-download")
    make.synbrain("prepare", "nsd", *artificial, "--dataset", "artificial", *GABOR)
    make.log("       simulated/, prepared/, nsd/")


def write_user_files(root: Path) -> None:
    """Tables, responses in every format, masks, ROIs and images of an experiment."""
    rng = np.random.default_rng(1)
    user = root / "user"
    (user / "images").mkdir(parents=True)
    names = [f"img{i:02d}.{SUFFIXES[i % len(SUFFIXES)]}" for i in range(N_IMAGES)]
    for name in names:
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(user / "images" / name)
    order = rng.permutation(np.repeat(np.arange(N_IMAGES), 3))
    session = np.sort(np.arange(N_TRIALS) % 3) + 1
    for suffix, separator in (("tsv", "\t"), ("csv", ",")):
        rows = [separator.join(("onset", "image", "session"))] + [
            separator.join(("1.5", names[i], str(s))) for i, s in zip(order, session, strict=True)
        ]
        (user / f"trials.{suffix}").write_text("\n".join(rows) + "\n")
    parts = np.where(np.arange(N_IMAGES) < 6, "test", np.where(np.arange(N_IMAGES) < 10, "val", ""))
    rows = [f"{n}\t{p or 'train'}" for n, p in zip(names, parts, strict=True)]
    (user / "split.tsv").write_text("image\tsplit\n" + "\n".join(rows) + "\n")

    mask = np.zeros(GRID, bool)
    mask[1:4, 1:3, :] = True
    n = int(mask.sum())
    signal = rng.standard_normal((N_IMAGES, n))
    betas = (3 + 2 * session[:, None] + signal[order] + rng.standard_normal((N_TRIALS, n))).astype(
        np.float32
    )
    np.save(user / "betas.npy", betas)
    volume = np.zeros((*GRID, N_TRIALS), np.float32)
    volume[mask] = betas.T
    for name in ("betas.nii", "betas.nii.gz"):
        nib.save(nib.Nifti1Image(volume, AFFINE), user / name)
    with h5py.File(user / "betas.hdf5", "w") as file:
        file["betas"] = volume
        file["betasmd"] = volume
    save = nib.Nifti1Image
    nib.save(save(mask.astype(np.uint8), AFFINE), user / "mask.nii.gz")
    roi = mask.copy()
    roi[2:] = False
    nib.save(save(roi.astype(np.uint8), AFFINE), user / "roi.nii.gz")
    nib.save(nib.MGHImage(mask.astype(np.uint8), AFFINE), user / "mask.mgz")
    table = ["ncsnr\tarea"] + [f"{0.2 + 0.01 * i:.2f}\t{('V1', 'V2')[i % 2]}" for i in range(n)]
    (user / "voxels.tsv").write_text("\n".join(table) + "\n")
    _write_surfaces(user, betas)


def _write_surfaces(user: Path, betas: np.ndarray) -> None:
    """The same responses at the first vertices of both hemispheres."""
    from synbrain_cli.io.surface import write_gifti

    for short, columns in (("lh", slice(0, 10)), ("rh", slice(10, None))):
        values = betas[:, columns]
        whole = np.zeros((N_TRIALS, N_FSAVERAGE5), np.float32)
        whole[:, 100 : 100 + values.shape[1]] = values
        inside = (whole[0] != 0).astype(np.float32)
        np.save(user / f"{short}.npy", whole)
        nib.save(nib.MGHImage(inside[:, None, None], np.eye(4)), user / f"{short}-mask.mgh")
        nib.save(nib.MGHImage(whole.T[:, None, None, :], np.eye(4)), user / f"{short}.mgh")
        hemisphere = {"lh": "left", "rh": "right"}[short]
        write_gifti(user / f"{short}.gii", whole, hemisphere)


def experiments(make: _Builder) -> None:
    """``user/``, ``algonauts/``, ``laion/``, ``mosaic/``, prepared/surface and prepared/volume."""
    make.python(write_user_files)
    make.python(write_glmsingle)
    make.python(write_algonauts)
    make.python(write_laion)
    make.python(write_mosaic)
    surface = ("--left", "user/lh.npy", "--right", "user/rh.npy", *SURFACE, "--dataset", "surface")
    make.synbrain("prepare", "table", "user/trials.tsv", *surface, *GABOR)
    volume = ("--responses", "user/betas.npy", *VOLUME, "--dataset", "volume")
    make.synbrain("prepare", "table", "user/trials.tsv", *volume, *GABOR)


def write_glmsingle(root: Path) -> None:
    """``user/glm-…/``: GLMsingle's output in every format; ``user/tokens/``: own features."""
    rng = np.random.default_rng(4)
    order = rng.permutation(np.repeat(np.arange(N_IMAGES), N_TRIALS // N_IMAGES))
    betas = rng.standard_normal((*GRID, N_TRIALS)).astype(np.float32)
    maps = {"R2": betas[..., 0], "HRFindex": np.ones(GRID), "noisepool": betas[..., 1] > 1}
    user, (n, pairs) = root / "user", (N_TRIALS // 2, np.arange(N_TRIALS // 2))
    design = [np.zeros((2 * n, N_IMAGES), np.float32) for _ in range(2)]
    for k, matrix in enumerate(design):
        matrix[2 * pairs, order[k * n : (k + 1) * n]] = 1
    info = {"stimorder": list(order), "numtrialrun": [n, n], "design": design, "tr": 1.5}
    info |= {"condcounts": list(np.bincount(order)), "params": {"sessionindicator": [1, 2]}}
    mat = {"stimorder": order[None] + 1.0, "numtrialrun": np.array([[n, n]]) * 1.0}
    for kind in ("npy", "hdf5", "mat"):
        (user / f"glm-{kind}").mkdir()
        stem = str(user / f"glm-{kind}" / "TYPED_FITHRF_GLMDENOISE_RR")
        if kind == "npy":
            np.save(f"{stem}.npy", {**maps, "betasmd": betas, "pcregressors": [], "pcnum": 2})
        elif kind == "hdf5":
            with h5py.File(f"{stem}.hdf5", "w") as file:
                for name, value in ({"betasmd": betas} | maps).items():
                    file[name] = value
        else:
            # No maps: one that became a structure, which is not read, is as one that is absent.
            scipy.io.savemat(f"{stem}.mat", {"modelmd": betas}, do_compression=True)
            scipy.io.savemat(user / "glm-mat/DESIGNINFO.mat", mat)
            continue
        np.save(user / f"glm-{kind}/DESIGNINFO.npy", info, allow_pickle=True)
    names = sorted(path.name for path in (user / "images").iterdir())
    stems = [Path(name).stem for name in names[:N_IMAGES]]
    (user / "conditions.tsv").write_text("image\n" + "\n".join(stems) + "\n")
    (user / "tokens").mkdir()
    tokens = rng.standard_normal((N_IMAGES, 16, 5)).astype(np.float32)
    np.save(user / "tokens/a.npy", tokens)
    (user / "tokens/a.tsv").write_text("\n".join(stems) + "\n")
    with h5py.File(user / "tokens/b.h5", "w") as file:
        file["tokens"], file["image"] = tokens, stems
    save_file({"tokens": tokens}, user / "tokens/c.safetensors")
    shutil.copy(user / "conditions.tsv", user / "tokens/c.tsv")  # the same as a table


def write_laion(root: Path) -> None:
    """LAION-fMRI's betas, tables, mask and ROIs of one subject, its images and a split."""
    import json

    import laion_tree

    laion_tree.write_subject(root / "laion", 1)
    laion_tree.write_images(root / "laion/stimuli")
    own = laion_tree.unique(1)
    lists = {"train_ids": own[:12], "test_ids": [*own[12:], *laion_tree.SHARED]}
    (root / "laion/tau.json").write_text(json.dumps({"variants": [lists]}))


def write_mosaic(root: Path) -> None:
    """MOSAIC's betas and table of stimuli of one subject, its images and lists of trials."""
    import json

    from mosaic_tree import Tree

    tree = Tree(counts=(8, 4, 1), repeats=(1, 1, 1), dtype=np.float32)
    tree.write(root / "mosaic")
    tree.write_images(root / "mosaic/stimuli")
    (root / "mosaic/lists").mkdir()
    for split in ("train", "test"):
        files = tree.files(split)
        lists = [{f"sub-01_NSD_stimulus-{f}": [f"{tree.key(1, split, f, 0)}.npz"]} for f in files]
        (root / f"mosaic/lists/{split}_naturalistic.json").write_text(json.dumps(lists))


def write_algonauts(root: Path) -> None:
    """The challenge's archive of one subject."""
    rng = np.random.default_rng(2)
    folder, space = root / "algonauts" / "subj01", N_FSAVERAGE5
    for name in ("training_split/training_images", "training_split/training_fmri", "roi_masks"):
        (folder / name).mkdir(parents=True)
    for row in range(1, N_IMAGES + 1):
        pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
        name = f"train-{row:04d}_nsd-{100 + 7 * row:05d}.png"
        Image.fromarray(pixels).save(folder / "training_split/training_images" / name)
    mappings = {"streams": {0: "Unknown", 5: "ventral"}, "floc-faces": {0: "Unknown", 2: "FFA-1"}}
    masks = folder / "roi_masks"
    for short, n in (("lh", 12), ("rh", 14)):
        responses = rng.standard_normal((N_IMAGES, n)).astype(np.float32)
        np.save(folder / f"training_split/training_fmri/{short}_training_fmri.npy", responses)
        chosen = np.sort(rng.choice(space, n, replace=False))
        whole = np.isin(np.arange(space), chosen).astype(np.int64)
        np.save(masks / f"{short}.all-vertices_fsaverage_space.npy", whole)
        for collection, mapping in mappings.items():
            codes = rng.choice(list(mapping), n)
            np.save(masks / f"{short}.{collection}_challenge_space.npy", codes)
            everywhere = np.zeros(space, np.int64)
            everywhere[chosen] = codes
            np.save(masks / f"{short}.{collection}_fsaverage_space.npy", everywhere)
    for collection, mapping in mappings.items():
        np.save(masks / f"mapping_{collection}.npy", mapping)


def models(make: _Builder) -> None:
    """``weights/``: linear, with networks, adapted in two ways, of a surface."""
    simulated_ = ("--dataset", "simulated")
    make.synbrain("train", "-s", "1", "--model", "linear", *simulated_)
    make.synbrain("train", "-s", "1", "--dataset", "surface", "--model", "linear", "--name", "surf")
    for subject in "12":
        make.synbrain("train", "-s", subject, "--preset", "test", *simulated_)
    for name, strategy in (("mapped", "source-map"), ("cored", "shared-core")):
        make.synbrain(
            *("adapt", "-s", "3", "--hours", "2", "--from", "sub-01,sub-02", "--name", name),
            *("--strategy", strategy, "--no-report", *simulated_),
        )


def results(make: _Builder) -> None:
    """``outputs/`` of every command."""
    shutil.copytree(EXAMPLES, make.root / "pictures", ignore=shutil.ignore_patterns("*.md"))
    for path in (make.root / "pictures").iterdir():
        Image.open(path).resize((64, 64)).save(path)
    shown = [path.name for path in sorted((make.root / "pictures").iterdir())]
    rows = "".join(f"{1 + t // 6}\t{4 * (t % 6)}\t{shown[t % 4]}\n" for t in range(12))
    (make.root / "day.tsv").write_text(f"session\tonset\timage\n{rows}")
    for model in ("sub-01", "sub-01_linear", "surf"):
        make.synbrain("synthesize", "pictures", "-m", model, "-n", "3", "--space", "fsaverage5")
    few = ("--draws", "20", "--no-report")
    make.synbrain("evaluate", "-m", "sub-01", "--no-latent", *few)
    make.synbrain("evaluate", "-m", "sub-01_linear", *few)
    make.synbrain("compare", "sub-01", "sub-01_linear", "--draws", "20")
    make.synbrain("learning-curve", "-s", "3", "--hours", "2,3")
    make.synbrain("augment", "-m", "sub-01_linear", "--amounts", "1")


def interrupted(make: _Builder) -> None:
    """``interrupted/<command>/``: workspaces in which a command was killed."""
    for name, share, arguments in (
        ("train", 1.0, TRAIN),
        ("half-train", 0.5, TRAIN),
        ("synthesize", 1.0, SYNTHESIZE),
        ("prepare", 0.41, PREPARE),  # all sessions are there
        ("half-prepare", 0.32, PREPARE),
        ("tokens", 0.9, PREPARE),
        ("adapt", 1.0, ADAPT),
    ):
        folder = make.root / "interrupted" / name
        folder.mkdir(parents=True)
        for link in ("prepared", "weights", "pictures", "user"):
            copied = make.root / link
            if link == "weights" and "train" in name:
                continue
            shutil.copytree(copied, folder / link, symlinks=True)
        if arguments is PREPARE:
            shutil.rmtree(folder / "prepared" / "volume")
        make.interrupt(*arguments, folder=folder, share=share)
        kept = {PREPARE: "prepared", SYNTHESIZE: "outputs"}.get(arguments, "weights")
        for entry in folder.iterdir():
            if entry.name != kept:
                shutil.rmtree(entry)
        for entry in (folder / kept).rglob("*"):  # what the others have is linked from there
            if not entry.is_dir() and not any(
                part.startswith(".") for part in entry.relative_to(folder).parts[:-1]
            ):
                entry.unlink()


TRAIN = ("train", "-s", "1", "--dataset", "simulated", "--preset", "test", "--name", "again")
SYNTHESIZE = ("synthesize", "pictures", "-m", "sub-01_linear", "-n", "2", "-o", "outputs/again")
PREPARE = (
    *("prepare", "table", "user/trials.tsv", "--responses", "user/betas.npy", *VOLUME),
    *(*GABOR, "--dataset", "volume"),
)
ADAPT = (
    *("adapt", "-s", "3", "--hours", "2", "--from", "sub-01,sub-02", "--name", "again"),
    *("--strategy", "fine-tuning", "--no-report", "--dataset", "simulated"),
)


def write_checkpoints(root: Path) -> None:
    """A tiny pair in the format of the published release: ``user/last.pth``, ``user/last.pt``."""
    import argparse
    import math

    import torch

    from synbrain_cli.config import MapperConfig, VAEConfig
    from synbrain_cli.model.layers import sinusoidal_positions
    from synbrain_cli.model.published import published_mapper_shapes, published_vae_shapes

    size = {"n_tokens": 256, "n_dims": 48}
    narrow = {"n_res_blocks": 1, "ada_length": 64, "projector_width": 32}
    vae = VAEConfig(**size, channels=32, multipliers=(1,), **narrow)

    def state(shapes: dict[str, tuple[int, ...]], seed: int, prefix: str = ""):
        rng = np.random.default_rng(seed)

        def values(shape):
            scale = math.sqrt(max(math.prod(shape[1:]), 1))
            return torch.from_numpy(np.float32(rng.standard_normal(shape) / scale))

        return {prefix + key: values(shape) for key, shape in shapes.items()}

    shapes = published_mapper_shapes(MapperConfig(**size, depth=1, n_heads=4))
    positions = {"pos_embed": sinusoidal_positions(256, 48)[None]}
    first = state(published_vae_shapes(vae), 0, "module.")
    torch.save({"epoch": 3, "model": first, "optimizer": {"state": {}}}, root / "user/last.pth")
    second = {
        "model": state(shapes, 1) | positions,
        "ema": state(shapes, 2) | positions,
        "opt": {},
        "args": argparse.Namespace(model_head=4, prediction="x"),
        "steps": 70,
    }
    torch.save(second, root / "user/last.pt")


IMPORT = (
    *("weights", "import", "--brainvae", "user/last.pth", "--s2n", "user/last.pt", "-s", "1"),
    *("--mask", "prepared/simulated/sub-01/mask.nii.gz", "--dataset", "simulated"),
    *("--encoder", "gabor"),
)


def write_fetched(root: Path) -> None:
    """A checkpoint as `synbrain weights fetch` leaves it."""
    from synbrain_cli.io.fetched import RECORD, FetchedFile, FetchRecord
    from synbrain_cli.io.files import sha256
    from synbrain_cli.io.records import write_record

    folder = root / "checkpoints" / "OWNER" / "REPO"
    (folder / "sub1").mkdir(parents=True)
    name = "sub1/last.pt"
    shutil.copyfile(root / "user/last.pt", folder / name)
    known = FetchedFile(sha256(folder / name), (folder / name).stat().st_size)
    record = FetchRecord("OWNER/REPO", "main", "0" * 40, {name: known})
    write_record(folder / RECORD, record)


def imported(make: _Builder) -> None:
    """Checkpoints, and the model made of them."""
    make.python(write_checkpoints)
    make.python(write_fetched)
    make.synbrain(*IMPORT, "--name", "theirs")


def know_tower() -> None:
    """Tell open_clip of the small architecture, in a child that needs it."""
    import open_clip

    folder = Path.cwd() / "user" / "tower" / "architectures"
    if "fuzz-ViT" not in open_clip.list_models():
        open_clip.add_model_config(folder)


def write_tower(root: Path) -> None:
    """A tower of open_clip in two formats, and a config beside it."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = root / "user" / "tower"
    (folder / "architectures").mkdir(parents=True)
    (folder / "architectures" / "fuzz-ViT.json").write_text(json.dumps(TOWER))
    know_tower()
    torch.manual_seed(0)
    model = open_clip.create_model("fuzz-ViT")
    torch.save(model.state_dict(), folder / "tower.pt")
    save_file(model.visual.state_dict(), folder / "tower.safetensors")
    colours = {"mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3]}
    config = {"model_cfg": TOWER, "preprocess_cfg": colours}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))


def towers(make: _Builder) -> None:
    """``user/tower/``, and the experiment's tokens under it."""
    make.python(write_tower)


sys.path.insert(0, str(HERE.parent))
