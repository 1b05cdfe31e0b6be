import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.data import Split, load_extra
from morel_jax.data.extra import label_file
from morel_jax.evaluation import pseudo_labels, write_pseudo_labels
from tests.small import images_and_labels


def by_brightness(scale):
    """A network of four classes: which quarter of ``scale`` the image's first pixel is in."""
    return jax.tree_util.Partial(lambda scale, x: -jnp.abs(x[:, 0, 0, :1] * scale - (jnp.arange(4) + 0.5) / 4),
                                 jnp.float32(scale))


@pytest.fixture
def pools(tmp_path):
    """Images of two files without labels."""
    images = [images_and_labels(count, seed=count)[0] for count in (5, 20)]
    np.savez(tmp_path / "a.npz", image=images[0])
    np.savez_compressed(tmp_path / "b.npz", image=images[1])
    return images


def test_a_pool_is_labelled_as_the_network_sees_it_and_then_trained_on(tmp_path, pools):
    files = write_pseudo_labels(by_brightness(1), tmp_path, cache_dir=tmp_path / "cache")
    assert files == [tmp_path / "a.labels", tmp_path / "b.labels"]
    expected = np.concatenate(pools)[:, 0, 0, 0] // 64
    found = load_extra(tmp_path, Split(*images_and_labels(3)), 4, tmp_path / "cache")
    np.testing.assert_array_equal(found.labels[3:], expected)
    np.testing.assert_array_equal(found.images[np.arange(3, 28)], np.concatenate(pools))


def test_what_is_labelled_is_left_alone_and_another_network_refused(tmp_path, pools, monkeypatch):
    write_pseudo_labels(by_brightness(1), tmp_path / "a.npz")
    seen, original = [], pseudo_labels.predict
    monkeypatch.setattr(pseudo_labels, "predict", lambda *a: seen.append(a[2]) or original(*a))
    write_pseudo_labels(by_brightness(1), tmp_path, cache_dir=tmp_path / "cache")
    assert seen == ["b.npz"]
    before = label_file(tmp_path / "a.npz").read_bytes()
    with pytest.raises(ValueError, match=r"a\.labels has the labels of another network; delete it"):
        write_pseudo_labels(by_brightness(2), tmp_path, cache_dir=tmp_path / "cache")
    assert label_file(tmp_path / "a.npz").read_bytes() == before


def test_labels_do_not_depend_on_the_width(tmp_path, pools):
    (first,) = write_pseudo_labels(by_brightness(1), tmp_path / "a.npz", width=2)
    with np.load(first) as stored:
        labels = stored["label"]
    first.unlink()
    write_pseudo_labels(by_brightness(1), tmp_path / "a.npz", width=7)
    with np.load(first) as stored:
        np.testing.assert_array_equal(stored["label"], labels)
        assert stored["label"].dtype == np.int32


def test_what_cannot_be_labelled_is_one_line(tmp_path, pools):
    np.savez(tmp_path / "c.npz", image=pools[0], label=np.zeros(5, int))
    with pytest.raises(ValueError, match=r"c\.npz has labels already"):
        write_pseudo_labels(by_brightness(1), tmp_path, cache_dir=tmp_path / "cache")
    assert not label_file(tmp_path / "a.npz").exists()
    np.savez(tmp_path / "c.npz", image=pools[0].astype(float))
    with pytest.raises(ValueError, match=r"image in .*c\.npz must be uint8\[n, height, width, channels\]; got float64"):
        write_pseudo_labels(by_brightness(1), tmp_path / "c.npz")
    np.savez(tmp_path / "c.npz", images=pools[0])
    with pytest.raises(ValueError, match=r"c\.npz must hold an array image; got images"):
        write_pseudo_labels(by_brightness(1), tmp_path / "c.npz")
    label_file(tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.labels is not a whole file of labels"):
        write_pseudo_labels(by_brightness(1), tmp_path / "a.npz")


def test_an_image_without_finite_logits_gets_no_label(tmp_path, pools):
    network = jax.tree_util.Partial(lambda x: jnp.where(x[:, 0, 0] > 0.5, jnp.nan, 0.0)[:, :1] * jnp.ones(4))
    bad = np.flatnonzero(pools[0][:, 0, 0, 0] > 127)
    with pytest.raises(ValueError, match=rf"are not for {len(bad)} images, the first of them {bad[0]}\."):
        write_pseudo_labels(network, tmp_path / "a.npz")
    assert not label_file(tmp_path / "a.npz").exists()
