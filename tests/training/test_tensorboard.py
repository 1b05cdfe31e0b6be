import struct

from morel_jax.evaluation.figures import new_figure, png
from morel_jax.training.tensorboard import EventFile, write_pictures

PICTURES = [png(new_figure(width, 1)) for width in (2, 3)]


def events(folder):
    """The events of a folder's only file."""
    from tensorboardX.proto.event_pb2 import Event
    (path,) = folder.glob("events.out.tfevents.*")
    content, found = path.read_bytes(), []
    while content:  # Length, its checksum, content, its checksum.
        size = struct.unpack("<Q", content[:8])[0]
        found.append(Event.FromString(content[12:12 + size]))
        content = content[16 + size:]
    return found[1:]  # The first tells the format.


def test_scalars_settings_and_pictures(tmp_path):
    file = EventFile(tmp_path, {"method": "trades", "loss.beta": 6.0, "data.flip": True, "preference": (0.5, 0.5)})
    assert not list(tmp_path.iterdir())
    file.write(6, {"loss": 0.5})
    file.write(12, {"loss": 0.25}, {"attacked": PICTURES[0]})
    file.close()
    start, experiment, settings, first, second, picture = events(tmp_path)
    assert start.session_log.status == start.session_log.START
    assert [one.step for one in (start, settings, first, second, picture)] == [6, 6, 6, 12, 12]
    assert second.summary.value[0].simple_value == 0.25
    image = picture.summary.value[0].image
    assert (image.width, image.height, image.encoded_image_string) == (220, 110, PICTURES[0])

    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
    plugin = [HParamsPluginData.FromString(one.summary.value[0].metadata.plugin_data.content)
              for one in (experiment, settings)]
    assert {one.name.tag for one in plugin[0].experiment.metric_infos} == {"robust_accuracy", "clean_accuracy", "loss"}
    hparams = plugin[1].session_start_info.hparams
    assert (hparams["method"].string_value, hparams["loss.beta"].number_value, hparams["data.flip"].bool_value,
            hparams["preference"].string_value) == ("trades", 6.0, True, "(0.5, 0.5)")


def test_pictures_replace_earlier_ones(tmp_path):
    for content in PICTURES:
        write_pictures(tmp_path, 6, {"attacked": content})
    assert events(tmp_path)[1].summary.value[0].image.encoded_image_string == PICTURES[1]
