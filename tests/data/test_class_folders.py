"""`folder:PATH`: layouts, sizes, channels, and what is refused."""
import re

import numpy as np
import PIL.Image
import pytest

from morel_jax import data

RANDOM = np.random.default_rng(0)


def put(path, height=8, width=8, mode="RGB", **options):
    """A made image at ``path``; returns its pixels as RGB or grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
    image.save(path, **options)
    return np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))


@pytest.fixture
def root(tmp_path):
    """cats and dogs, five each, and files that are none of them."""
    for name in ("cats", "dogs"):
        for number in range(5):
            put(tmp_path / "pets" / name / f"{number}.png")
    (tmp_path / "pets" / "README.txt").write_text("Not in a class folder.")
    (tmp_path / "pets" / "cats" / ".DS_Store").write_text("Hidden.")
    return tmp_path / "pets"


def load(root, **options):
    return data.load(f"folder:{root}", cache_dir=root.parent / "cache", **options)


def test_train_and_test_folders(tmp_path):
    root, pixels = tmp_path / "pets", {}
    for split, count in (("train", 3), ("validation", 2)):
        for name in ("dogs", "cats"):
            for number in range(count):
                pixels[split, name, number] = put(root / split / name / "deep" / f"{number}.PNG", 6, 9)
    loaded = load(root)
    assert (loaded.name, loaded.class_names, loaded.image_shape) == ("folder:pets", ("cats", "dogs"), (6, 9, 3))
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(loaded.train.images[3], pixels["train", "dogs", 0])
    np.testing.assert_array_equal(loaded.test.images[1], pixels["validation", "cats", 1])
    blank = data.blank(f"folder:{root}")
    assert (len(blank.train), len(blank.test), blank.image_shape, blank.num_classes) == (6, 4, (6, 9, 3), 2)
    for number in range(2):
        for name in ("dogs", "cats"):
            put(root / "night" / name / f"{number}.png", 6, 9)
    assert len(load(root, test_split="night").test) == 4
    with pytest.raises(ValueError, match="it has no folder day"):
        load(root, test_split="day")


def test_a_fifth_of_each_class_is_kept_for_testing(root):
    first = load(root)
    assert first.train.labels.tolist() == [0] * 4 + [1] * 4
    assert first.test.labels.tolist() == [0, 1]
    every = {image.tobytes() for split in (first.train, first.test) for image in split.images}
    assert len(every) == 10
    # The same files elsewhere are the same data, and other files are not.
    moved = root.rename(root.with_name("animals"))
    again = load(moved)
    assert again.sha256 == first.sha256 != ""
    np.testing.assert_array_equal(again.test.images, first.test.images)
    assert again.record()["sha256"] == first.sha256
    put(moved / "cats" / "0.png")
    assert load(moved).sha256 != first.sha256


def test_grey_files_have_one_channel_and_one_in_colour_makes_three(root):
    for number, mode in enumerate(("1", "L", "LA", "L", "L")):
        for name in ("cats", "dogs"):
            put(root / name / f"{number}.png", mode=mode)
    grey = load(root)
    assert grey.image_shape == (8, 8, 1)
    put(root / "dogs" / "4.png", mode="P")
    colour = load(root)
    assert colour.image_shape == (8, 8, 3)
    np.testing.assert_array_equal(colour.train.images[0], np.repeat(grey.train.images[0], 3, -1))


def test_opaque_rgba_is_taken_and_a_transparent_pixel_refused(root):
    pixels = RANDOM.integers(0, 256, (8, 8, 4), np.uint8)
    pixels[..., 3] = 255
    PIL.Image.fromarray(pixels).save(root / "cats" / "0.png")
    loaded = load(root)
    assert any(np.array_equal(image, pixels[..., :3]) for split in (loaded.train, loaded.test)
               for image in split.images)
    pixels[0, 0, 3] = 254
    PIL.Image.fromarray(pixels).save(root / "cats" / "0.png")
    with pytest.raises(ValueError, match=re.escape(f"{root}/cats/0.png must have no transparent pixel; put it on")):
        load(root)


def test_sizes_are_brought_to_one_where_that_is_asked_for(root):
    put(root / "dogs" / "3.jpg", 20, 30)
    with pytest.raises(ValueError, match=r"dogs/3.jpg has 20 x 30, .*cats/0.png 8 x 8"):
        load(root)
    assert load(root, image_size=8).image_shape == data.blank(f"folder:{root}", image_size=8).image_shape == (8, 8, 3)


def test_the_middle_square_is_taken(root):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:6] = 200  # All that is left.
    PIL.Image.fromarray(pixels).save(root / "cats" / "0.png")
    loaded = load(root, image_size=4)
    assert any(np.all(image == 200) for split in (loaded.train, loaded.test) for image in split.images)


def test_exif_turns_an_image(root):
    exif = PIL.Image.Exif()
    exif[274] = 6  # Turned by a quarter.
    for name in ("cats", "dogs"):
        for number in range(5):
            (root / name / f"{number}.png").unlink()
            put(root / name / f"{number}.jpg", 6, 9, exif=exif)
    assert load(root).image_shape == data.blank(f"folder:{root}").image_shape == (9, 6, 3)


def _empty_class(root):
    (root / "birds").mkdir()


def _no_image(root):
    (root / "cats" / "0.png").write_bytes(b"no image")


def _half(root):
    content = (root / "cats" / "0.png").read_bytes()
    (root / "cats" / "0.png").write_bytes(content[:len(content) // 2])


def _foreign(root):
    (root / "cats" / "notes.txt").write_text("")


def _deep(root):
    PIL.Image.fromarray(np.zeros((8, 8), np.uint16)).save(root / "cats" / "0.png")


def _few(root):
    (root / "dogs" / "0.png").unlink()


def _one_class(root):
    (root / "dogs").rename(root.parent / "dogs")


def _no_train(root):
    put(root / "test" / "cats" / "0.png")


def _no_test(root):
    put(root / "train" / "cats" / "0.png")


def _lonely_class(root):
    put(root / "train" / "cats" / "0.png")
    put(root / "train" / "dogs" / "0.png")
    put(root / "test" / "cats" / "0.png")
    put(root / "test" / "birds" / "0.png")


@pytest.mark.parametrize(("change", "message"), [
    (_empty_class, "The class folder {root}/birds must hold at least one image; it is empty."),
    (_no_image, "{root}/cats/0.png is not an image that can be read: cannot identify image file"),
    (_half, "{root}/cats/0.png is not an image that can be read: "),
    (_foreign, "{root}/cats/notes.txt must be an image, whose name ends in one of .bmp, .jpeg"),
    (_deep, "{root}/cats/0.png must have 8 bits per channel; Pillow calls its form I;16."),
    (_few, "The class folder {root}/dogs must hold at least 5 images, of which one is kept for testing; it has 4."),
    (_one_class, "{root} must hold a folder of images for each of at least two classes; it has cats."),
    (_no_train, "{root} must have the folders train and test, or class folders alone and no config.data.test_split; "
                "it has no folder train."),
    (_no_test, "it has no folder test."),
    (_lonely_class, "{root}/train and {root}/test must have the same class folders; only one of them has birds."),
])
def test_what_is_refused(change, message, root):
    change(root)
    with pytest.raises(ValueError, match=re.escape(message.format(root=root))) as caught:
        load(root)
    assert "\n" not in str(caught.value)
    assert not list((root.parent / "cache" / "decoded").glob("folder*"))


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path}/none"):
        load(tmp_path / "none")
