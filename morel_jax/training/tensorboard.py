"""TensorBoard's files: scalars by step, a run's settings for the HParams tab, and pictures."""
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What the HParams tab compares runs by.
_COMPARED = ("robust_accuracy", "clean_accuracy", "loss")


class EventFile:
    """A file of events in a folder, which :meth:`write` makes; nothing is imported or written before.

    Args:
        folder: that TensorBoard shows as a run.
        settings: {"section.field": value} of the HParams tab, or None.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self._folder, self._settings = folder, settings
        self._writer: Any = None

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._writer is not None:
            self._writer.close()

    def write(self, step: int, scalars: Mapping[str, float] | None = None,
              pictures: Mapping[str, bytes] | None = None) -> None:
        """Adds scalars, and PNG files by tag.

        At the first call TensorBoard drops what an earlier file of the folder has from ``step`` on.
        """
        # Here: it imports PyTorch where that is installed, which takes longer than a first step should have to wait.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.summary import hparams, scalar

        contents: list[dict[str, Any]] = [{"summary": scalar(*pair)} for pair in (scalars or {}).items()]
        for tag, picture in (pictures or {}).items():
            width, height = struct.unpack(">II", picture[16:24])  # As the PNG's first chunk has them.
            contents.append({"summary": Summary(value=[Summary.Value(tag=tag, image=Summary.Image(
                width=width, height=height, encoded_image_string=picture))])})
        if self._writer is None:
            # Not SummaryWriter: its thread dies of a full disk, and whoever waits for it then waits for ever.
            self._writer = EventsWriter(str(self._folder / "events"))
            first: list[dict[str, Any]] = [{"session_log": SessionLog(status=SessionLog.START)}]
            if self._settings is not None:
                plain = {name: value if isinstance(value, (str, bool, int, float)) else repr(value)
                         for name, value in self._settings.items()}
                experiment, start, _ = hparams(plain, dict.fromkeys(_COMPARED))
                first += [{"summary": experiment}, {"summary": start}]
            contents = first + contents
        for content in contents:
            self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
        self._writer.flush()


def write_pictures(folder: Path, step: int, pictures: Mapping[str, bytes]) -> None:
    """Puts PNG files by tag into TensorBoard events in ``folder``, in place of those that an earlier call put there."""
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink()
    file = EventFile(folder)
    file.write(step, pictures=pictures)
    file.close()
