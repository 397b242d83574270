"""Episodes as animated GIFs, which every browser and TensorBoard play, and pillow writes; or as MP4 by ffmpeg."""

import io
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from runners.errors import RunError
from runners.records.files import write_atomically

MAX_BYTES, MAX_FRAMES = 3_000_000, 3_000
MIN_DELAY = 20  # ms: browsers slow down a GIF that asks for less


def encode_gif(frames: np.ndarray, fps: float) -> bytes:
    """Return `frames` uint8 [T, H, W, 3] as an endless GIF in real time; frames are left out evenly to keep to
    MAX_BYTES and MAX_FRAMES."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 [T >= 1, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    stride = int(np.ceil(max(1, MIN_DELAY * fps / 1000, len(frames) / MAX_FRAMES)))
    while True:
        data = _encode(frames[::stride], 1000 * stride / fps)
        if len(data) <= MAX_BYTES or stride >= len(frames):
            return data
        stride = max(stride + 1, int(np.ceil(stride * len(data) / MAX_BYTES)))


def encode_mp4(frames: np.ndarray, fps: float) -> bytes:
    """Return `frames` uint8 [T, H, W, 3] as an MP4 in real time; RunError with the words of an ffmpeg that fails."""
    height, width = frames.shape[1:3]
    with TemporaryDirectory() as folder:  # ffmpeg goes back in the file to write its index
        path = Path(folder) / "video.mp4"
        given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
        # Players want this format of pixels, which has even sides.
        made = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)]
        command = [ffmpeg(), "-loglevel", "error", *given, *made]
        done = subprocess.run(command, input=np.ascontiguousarray(frames).tobytes(), capture_output=True)
        if done.returncode:
            raise RunError(f"ffmpeg makes no video: {done.stderr.decode(errors='replace').strip()}")
        return path.read_bytes()


def ffmpeg() -> str | None:
    """Return the path of an ffmpeg, of the package imageio-ffmpeg if it is installed or the system's; None if neither
    is there."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        return shutil.which("ffmpeg")
    return get_ffmpeg_exe()


def write_video(path: str | os.PathLike, frames: np.ndarray, fps: float) -> bytes:
    """Write `frames` uint8 [T, H, W, 3] atomically to `path`, a .gif or .mp4, and return its content; raise OSError."""
    data = {".gif": encode_gif, ".mp4": encode_mp4}[Path(path).suffix](frames, fps)
    write_atomically(path, data)
    return data


def _encode(frames: np.ndarray, delay: float) -> bytes:
    # One palette for the whole episode: with one for each frame the picture flickers and compresses badly.
    sample = frames[:: max(1, len(frames) // 64)]
    palette = Image.fromarray(sample.reshape(-1, *sample.shape[2:])).quantize(256, dither=Image.Dither.NONE)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    delay = 10 * round(delay / 10)  # a GIF counts in hundredths of a second
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=delay, loop=0, optimize=False)
    return buffer.getvalue()
