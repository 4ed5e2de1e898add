"""Every kind of image file has one defined conversion; everything else a clear error."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features

from synbrain_cli.errors import InputError, InputTypeError, MissingError
from synbrain_cli.features.images import (
    ImageSet,
    image_digest,
    list_images,
    passed_over,
    read_image,
    resize,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RGB[..., 0]
GREY3 = np.repeat(GREY[..., None], 3, axis=2)
ALPHA = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def over_grey(rgb, alpha):
    a = alpha[..., None] / 255
    return a * rgb + (1 - a) * 128


def oriented(array, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    out = io.BytesIO()
    Image.fromarray(array).save(out, "png", exif=exif)
    return Image.open(out)


PALETTE = Image.fromarray(RGB).quantize(16)
CMYK = Image.fromarray(RGB).convert("CMYK")

CONVERSIONS = [
    ("rgb.png", Image.fromarray(RGB), RGB),
    ("grey.png", Image.fromarray(GREY), GREY3),
    ("bilevel.png", Image.fromarray(GREY).convert("1", dither=0), (GREY3 > 127) * 255),
    ("palette.png", PALETTE, np.asarray(PALETTE.convert("RGB"))),
    ("cmyk.tif", CMYK, np.asarray(CMYK.convert("RGB"))),
    ("sixteen.png", Image.fromarray(GREY.astype(np.uint16) * 257), GREY3),
    ("sixteen.tif", Image.fromarray(GREY.astype(np.uint16) * 257), GREY3),
    ("thirtytwo.tif", Image.fromarray(GREY.astype(np.int32) * 257), GREY3),
    ("float.tif", Image.fromarray(GREY.astype(np.float32) / 255), GREY3),
    ("eight_in_sixteen.png", Image.fromarray(GREY.astype(np.uint16)), GREY3),
    ("eight_in_thirtytwo.tif", Image.fromarray(GREY.astype(np.int32)), GREY3),
    ("eight_in_float.tif", Image.fromarray(GREY.astype(np.float32)), GREY3),
    ("dim_sixteen.png", Image.fromarray(GREY.astype(np.uint16) // 8 * 257), GREY3 // 8),
    ("shifted_sixteen.png", Image.fromarray(GREY.astype(np.uint16) // 8 * 256), GREY3 // 8),
    ("black_sixteen.png", Image.fromarray(GREY.astype(np.uint16) * 0), GREY3 * 0),
    ("photo.jfif", Image.fromarray(np.full_like(RGB, 90)), np.full_like(RGB, 90)),
    ("photo.jpe", Image.fromarray(np.full_like(RGB, 90)), np.full_like(RGB, 90)),
    ("rgba.png", Image.fromarray(np.dstack([RGB, ALPHA])), over_grey(RGB, ALPHA)),
    ("la.png", Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), over_grey(GREY3, ALPHA)),
    ("single.gif", PALETTE, np.asarray(PALETTE.convert("RGB"))),
    ("turned.png", oriented(RGB, 6), np.rot90(RGB, -1)),
    ("upside.png", oriented(RGB, 3), np.rot90(RGB, 2)),
]


@pytest.mark.parametrize(
    ("name", "image", "expected"), CONVERSIONS, ids=[c[0] for c in CONVERSIONS]
)
def test_conversions(tmp_path, name, image, expected):
    kwargs = {"exif": image.getexif()} if image.getexif() else {}
    image.save(tmp_path / name, **kwargs)
    pixels = read_image(tmp_path / name)
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels, expected, atol=1)
    np.testing.assert_array_equal(ImageSet.of(Image.open(tmp_path / name))[0], pixels)


def test_transparent_palette(tmp_path):
    PALETTE.save(tmp_path / "p.png", transparency=int(np.asarray(PALETTE)[0, 0]))
    assert read_image(tmp_path / "p.png")[0, 0].tolist() == [128, 128, 128]


def animation(path):
    frames = [Image.fromarray(np.roll(RGB, k, 1)) for k in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def truncated(path):
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])


def grey(dtype, factor):
    values = np.arange(54).reshape(6, 9) * 5 * factor
    return lambda path: Image.fromarray(values.astype(dtype)).save(path)


def colour_of_16_bits(values):
    """A PNG: Pillow writes none."""

    def chunk(kind, data):
        content = kind + data
        return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


UNREADABLE = [
    ("a.gif", animation, "3 frames"),
    ("a.png", animation, "3 frames"),
    ("a.png", truncated, "do not decode"),
    ("a.jpg", truncated, "do not decode"),
    ("a.jpg", lambda p: p.write_bytes(b""), "empty file"),
    ("a.jpg", lambda p: p.write_text("not an image"), "do not decode"),
    ("a.tif", lambda p: Image.fromarray(np.full((2, 2), 3.5, np.float32)).save(p), "0 to 1"),
    ("a.jpg", lambda p: p.mkdir(), "folder"),
    ("a.png", os.mkfifo, "a pipe"),
    ("a.png", lambda p: p.symlink_to("/dev/zero"), "a device"),
    ("a.png", grey(np.uint16, 1 << 4), "10, 12, 14 or 16 bits"),
    ("a.tif", grey(np.int32, 1 << 5), "10, 12, 14 or 16 bits"),
    ("a.tif", grey(np.int32, -1), "0 to 65535"),
    ("a.tif", grey(np.int32, 300), "0 to 65535"),
    ("a.tif", grey(np.float32, 0.01), "0 to 1"),
    ("a.tif", grey(np.float32, np.nan), "0 to 1"),
    ("a.png", lambda p: p.write_bytes(colour_of_16_bits(RGB.astype(">u2"))), "16 bits"),
    ("a.png", lambda p: p.write_bytes(colour_of_16_bits(RGB.astype(">u2") * 16)), "16 bits"),
    ("a.png", lambda p: Image.new("1", (10001, 10000)).save(p), "at most 100,000,000 pixels"),
    ("a.png", lambda p: Image.new("1", (20000, 10000)).save(p), "at most 100,000,000 pixels"),
]


@pytest.mark.parametrize(("name", "write", "message"), UNREADABLE)
def test_unreadable(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        read_image(tmp_path / name)
    assert name in str(caught.value)


def test_colour_of_16_bits(tmp_path):
    (tmp_path / "a.png").write_bytes(colour_of_16_bits(RGB.astype(">u2") * 257))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)


@pytest.mark.skipif(not features.check("avif"), reason="not in this build of Pillow")
def test_avif(tmp_path):
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "a.avif")
    np.testing.assert_allclose(read_image(list_images(tmp_path)[0]), 90, atol=2)


def test_large_images_warn_of_nothing(tmp_path):
    Image.new("1", (10000, 10000)).save(tmp_path / "a.png")
    code = "import sys; from synbrain_cli.features.images import read_image as r; r(sys.argv[1])"
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_a_folder_holds_beside_its_images_is_said(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert passed_over(tmp_path) == ""
    for name in ("b.heic", "c.svg", ".DS_Store"):
        (tmp_path / name).write_text("x")
    (tmp_path / "more").mkdir()
    assert passed_over(tmp_path) == (
        f"{tmp_path}: 2 files not read (b.heic, c.svg), 1 folder in it not searched"
    )
    assert [p.name for p in list_images(tmp_path)] == ["a.png"]


def test_an_image_that_cannot_be_there_is_not_passed_over(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b\.png: expected an image file, found a pipe"):
        list_images(tmp_path)
    (tmp_path / "b.png").unlink()
    (tmp_path / "b.png").symlink_to("nowhere")
    with pytest.raises(MissingError, match=r"b\.png does not exist: .* found a link to nothing"):
        list_images(tmp_path)


def test_a_name_that_is_no_text(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.png")
    Image.fromarray(RGB).save(path)
    for images in (path, tmp_path, [path]):
        with pytest.raises(InputError, match="not text in"):
            ImageSet.of(images)


def test_missing(tmp_path):
    for read in (read_image, list_images, ImageSet.of, lambda p: ImageSet.of([p])):
        with pytest.raises(MissingError, match="nowhere"):
            read(tmp_path / "nowhere")


def test_list_images(tmp_path):
    with pytest.raises(MissingError, match="found none"):
        list_images(tmp_path)
    for name in ("b.PNG", "a.jpg", "c.tiff"):
        Image.fromarray(RGB).save(tmp_path / name)
    for name in ("notes.txt", ".DS_Store", "._a.jpg", "README.md"):
        (tmp_path / name).write_text("x")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.tiff"]
    with pytest.raises(InputError, match="found a file"):
        list_images(tmp_path / "a.jpg")
    Image.fromarray(RGB).save(tmp_path / "A.png")
    with pytest.raises(InputError, match="same name"):
        list_images(tmp_path)


def test_every_form_gives_the_same_pixels_and_digest(tmp_path):
    stack = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    paths = [tmp_path / f"{name}.png" for name in ("one", "three", "two words")]
    for path, image in zip(paths, stack, strict=True):
        Image.fromarray(image).save(path)
    pils = [Image.fromarray(image) for image in stack]
    forms = [tmp_path, str(tmp_path), paths, [str(p) for p in paths], pils, stack, list(stack)]
    for form in forms:
        images = ImageSet.of(form)
        assert len(images) == 3
        np.testing.assert_array_equal(list(images), stack)
        assert [images.digest(i) for i in range(3)] == [image_digest(image) for image in stack]
    assert ImageSet.of(tmp_path).names == ["one", "three", "two-words"]
    assert ImageSet.of(paths).sources == [str(p) for p in paths]
    assert ImageSet.of(stack).names == ["image-0001", "image-0002", "image-0003"]
    assert ImageSet.of(pils).sources == ["array"] * 3
    assert ImageSet.of(stack, names=["x", "y", "z"]).names == ["x", "y", "z"]
    images = ImageSet.of(stack)
    assert ImageSet.of(images) is images
    for one in (paths[1], pils[1], stack[1]):
        np.testing.assert_array_equal(ImageSet.of(one)[-1], stack[1])
    with pytest.raises(IndexError):
        images[3]


def test_digest_tells_shapes_apart():
    assert image_digest(RGB) != image_digest(RGB.reshape(9, 6, 3))
    assert image_digest(RGB[:, ::-1]) == image_digest(RGB[:, ::-1].copy())


def test_a_large_set_is_read_lazily(tmp_path):
    (tmp_path / "broken.png").write_text("x")
    assert len(ImageSet.of(tmp_path)) == 1  # nothing was opened


REFUSED = [
    (np.zeros((2, 256, 48), np.float32), InputTypeError, "tokens"),
    (np.zeros((2, 8, 8, 3), np.float32), InputTypeError, "multiply"),
    (np.zeros((8, 8), np.uint8), InputTypeError, "shape"),
    (np.zeros((8, 8, 4), np.uint8), InputTypeError, "shape"),
    (np.zeros((0, 8, 8, 3), np.uint8), InputError, "at least one"),
    ([], InputError, "at least one"),
    ([3], InputTypeError, "element 0 is int"),
    (3, InputTypeError, "int"),
    (None, InputTypeError, "NoneType"),
    ({"a": 1}, InputTypeError, "dict"),
    ([np.zeros((8, 8, 3))], InputTypeError, "uint8"),
]


@pytest.mark.parametrize(("images", "error", "message"), REFUSED)
def test_refused(images, error, message):
    with pytest.raises(error, match=message):
        ImageSet.of(images)


def test_same_names_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(RGB).save(tmp_path / name / "x.png")
    with pytest.raises(InputError, match="same name"):
        ImageSet.of([tmp_path / "a/x.png", tmp_path / "b/x.png"])
    with pytest.raises(InputError, match="same name"):
        ImageSet.of(np.stack([RGB, RGB]), names=["x", "x"])
    with pytest.raises(InputError, match="expected 2 names"):
        ImageSet.of(np.stack([RGB, RGB]), names=["x"])


@pytest.mark.parametrize("shape", [(40, 40), (40, 60), (61, 40), (7, 7), (1, 5)])
def test_resize_cuts_the_central_square(shape):
    # within a range where neither overshoots: Pillow clips between its two passes
    image = RNG.integers(90, 165, (*shape, 3), dtype=np.uint8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    out = resize([image], 20).numpy()
    assert out.shape == (1, 3, 20, 20)
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 1
    square = Image.fromarray(image[top : top + side, left : left + side])
    reference = np.asarray(square.resize((20, 20), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(out[0].transpose(1, 2, 0), reference, atol=1.5 / 255)


def test_resize_to_its_own_size_changes_nothing():
    image = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(image[None], 16)[0].permute(1, 2, 0) * 255, image)


def test_resizing_together_is_resizing_one_by_one():
    """To the last bit, whatever the sizes of neighbours."""
    shapes = [(40, 40), (40, 40), (40, 60), (25, 25), (40, 40), (20, 20), (20, 20)]
    images = [RNG.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    together = resize(images, 20).numpy()
    np.testing.assert_array_equal(together, np.concatenate([resize([x], 20) for x in images]))
    stack = RNG.integers(0, 256, (9, 97, 97, 3), dtype=np.uint8)
    alone = np.concatenate([resize([image], 64) for image in stack])
    np.testing.assert_array_equal(resize(stack, 64), alone)
