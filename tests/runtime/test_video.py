"""Videos read and written: time stamps, rotation flags, sound, and everything that may be wrong with a file."""

import csv
import errno
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import EngineUnavailableError, FileFormatError, InvalidInputError, Reconstructor, read_image, video_files
from runtime import video as video_module
from runtime.__main__ import main
from runtime.live import show_camera
from runtime.video import VideoFrame, read_camera, read_video, track, video_info
from runtime.video_files import track_file
from tests.full_disk import full_disk

av = pytest.importorskip("av")
pytest.importorskip("onnxruntime")

PHOTO = read_image(Path(__file__).parents[2] / "examples" / "astronaut.jpg")


@pytest.fixture(scope="module")
def reconstruct():
    with Reconstructor(threads=1) as reconstruct:
        yield reconstruct


def frame_at(i, size=(320, 240)):
    matrix = np.array([[1.0, 0, size[0] / 2 - 225 + 2 * i], [0, 1.0, size[1] / 2 - 121 + i]])
    return cv2.warpAffine(PHOTO, matrix, size, borderMode=cv2.BORDER_REPLICATE)


def write_video(path, *, frames=12, times=None, sound=False, rotation=0, sizes=None, format=None, options=None):
    """A video of the photograph that moves, and a tone; `times` in hundredths of a second."""
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = (320, 240)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        stream.options = {"bf": "0", "preset": "ultrafast"}
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for i in range(frames):
            picture = av.VideoFrame.from_ndarray(frame_at(i), format="bgr24")
            picture.pts, picture.time_base = (times[i] if times else 4 * i), Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if audio is not None:
            tone = (8000 * np.sin(np.arange(frames * 640) / 5)).astype(np.int16)[None]
            samples = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            samples.sample_rate = 16000
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
    return path


def test_frames_come_with_their_own_times(tmp_path):
    times = [0, 3, 4, 20, 21, 50]
    frames = list(read_video(write_video(tmp_path / "a.mp4", frames=6, times=times)))
    assert [frame.index for frame in frames] == list(range(6))
    np.testing.assert_allclose([frame.time for frame in frames], np.array(times) / 100, atol=1e-3)
    for i, frame in enumerate(frames):
        assert frame.image.shape == (240, 320, 3) and np.abs(frame.image.astype(int) - frame_at(i)).mean() < 6


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_the_rotation_flag_is_obeyed(tmp_path, turn):
    path = write_video(tmp_path / "a.mp4", frames=2)
    data = bytearray(path.read_bytes())
    # The track header's matrix: [cos, sin; -sin, cos] of a clockwise turn, 16.16 fixed point.
    at = data.index(b"tkhd") + 4 + 40
    c, s = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    for k, value in zip((0, 1, 3, 4), (c, s, -s, c), strict=True):
        data[at + 4 * k : at + 4 * k + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    frame = next(iter(read_video(path)))
    assert np.abs(frame.image.astype(int) - np.rot90(frame_at(0), -turn // 90)).mean() < 6


def test_a_folder_of_numbered_images_is_a_video(tmp_path, reconstruct):
    for i in (2, 10, 1):
        cv2.imwrite(str(tmp_path / f"f{i}.png"), frame_at(i))
    frames = list(read_video(tmp_path, rate=10))
    assert [frame.time for frame in frames] == [0, 0.1, 0.2]
    np.testing.assert_array_equal(frames[2].image, frame_at(10))
    assert [len(faces) for _, faces in track(tmp_path, reconstruct)] == [1, 1, 1]


def test_results_are_written_with_the_sound(tmp_path, reconstruct):
    video, out, seen = write_video(tmp_path / "talk.mp4", sound=True), tmp_path / "out", []
    outcome = track_file(reconstruct, video, out, progress=lambda done, total: seen.append((done, total)))
    assert (outcome.frames, outcome.faces, outcome.people, outcome.error) == (12, 12, 1, None)
    assert seen[-1] == (12, 12) and sorted(p.name for p in out.iterdir()) == ["talk.csv", "talk.jsonl", "talk.mp4"]
    lines = [json.loads(line) for line in (out / "talk.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(12)) and lines[5]["time"] == pytest.approx(0.2)
    face = lines[5]["faces"][0]
    assert {"id", "box", "score", "params", "landmarks", "pose"} <= set(face) and len(face["landmarks"]) == 68
    rows = list(csv.DictReader((out / "talk.csv").open()))
    assert len(rows) == 12 and float(rows[5]["x_30"]) == pytest.approx(face["landmarks"][30][0], abs=0.01)
    assert float(rows[5]["pose_yaw"]) == pytest.approx(face["pose"]["yaw"], abs=0.01) and rows[5]["face_id"] == "0"
    with av.open(str(out / "talk.mp4")) as container:
        audio = [p for p in container.demux(container.streams.audio[0]) if p.dts is not None]
        assert len(audio) > 5
    drawn = list(read_video(out / "talk.mp4"))
    np.testing.assert_allclose([f.time for f in drawn], [line["time"] for line in lines], atol=1e-3)
    assert np.abs(drawn[5].image.astype(int) - frame_at(5)).max() > 60  # something is drawn on it
    track_file(reconstruct, video, tmp_path / "less", picture=False)
    assert sorted(p.name for p in (tmp_path / "less").iterdir()) == ["talk.csv", "talk.jsonl"]


def test_sound_stays_with_the_pictures_of_a_video_that_starts_late(tmp_path, reconstruct):
    late = write_video(tmp_path / "late.mp4", frames=50, times=[100 + 4 * i for i in range(50)], sound=True)
    track_file(reconstruct, late, tmp_path / "out")
    with av.open(str(tmp_path / "out" / "late.mp4")) as container:
        ends = [float((p.pts + p.duration) * p.time_base) for p in container.demux(audio=0) if p.dts is not None]
    assert 0.9 < ends[-1] < 1.2  # two seconds of sound, the first of which lies before the pictures


def test_frames_that_a_trimmed_video_hides_are_not_missed(tmp_path):
    times = [4 * i for i in range(-6, 6)]
    path = write_video(tmp_path / "a.mp4", times=times, options={"avoid_negative_ts": "disabled"})
    with av.open(str(path)) as container:
        hidden = sum(packet.is_discard for packet in container.demux(video=0))
        assert hidden > 3 and container.streams.video[0].frames == 12
    assert len(list(read_video(path))) == 12 - hidden


def broken(tmp_path, kind):
    path = tmp_path / "x.mp4"
    if kind == "text":
        path.write_text("no video at all")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "sound alone":
        with av.open(str(path), "w") as container:
            audio = container.add_stream("aac", rate=16000, layout="mono")
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
            samples.sample_rate = 16000
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
    elif kind == "no index":
        path.write_bytes(write_video(tmp_path / "whole.mp4").read_bytes()[:20_000])
    elif kind == "no frames":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            container.start_encoding()
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "sound alone", "no index", "no frames"])
def test_what_is_no_video_is_refused(tmp_path, kind):
    with pytest.raises(FileFormatError, match=r"x\.mp4: expected a video, (got|found)") as caught:
        list(read_video(broken(tmp_path, kind)))
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="found no file"):
        list(read_video(tmp_path / "none.mp4"))


def test_of_a_truncated_file_what_can_be_read_counts(tmp_path, reconstruct):
    whole = write_video(tmp_path / "whole.mp4", frames=40, options={"movflags": "faststart"}).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    outcome = track_file(reconstruct, cut, tmp_path / "out")
    assert 3 < outcome.frames < 30 and "cut.mp4" in outcome.error and "count" in outcome.error
    assert len((tmp_path / "out" / "cut.jsonl").read_text().splitlines()) == outcome.frames
    assert len(list(read_video(tmp_path / "out" / "cut.mp4"))) == outcome.frames


def test_frames_that_change_size_and_times_that_stand_still_end_the_video(tmp_path):
    for i, size in enumerate([(320, 240), (320, 240), (160, 120)]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((size[1], size[0], 3), np.uint8))
    frames = read_video(tmp_path)
    assert [next(frames).index, next(frames).index] == [0, 1]
    with pytest.raises(FileFormatError, match="frame 2: expected 320 x 240 pixels as before, got 160 x 120"):
        next(frames)
    still = [VideoFrame(image=PHOTO, index=i, time=t) for i, t in enumerate((0.0, 0.5, 0.5))]
    with pytest.raises(FileFormatError, match=r"frame 2: expected a time after 0\.500 s, got 0\.500 s"):
        list(video_module._checked(Path("x.mp4"), iter(still)))


def test_a_full_disk_leaves_what_can_be_played(tmp_path, reconstruct):
    video = write_video(tmp_path / "talk.mp4", frames=80)
    with full_disk(90_000):
        outcome = track_file(reconstruct, video, tmp_path / "out")
    assert "talk." in outcome.error and "\n" not in outcome.error
    lines = (tmp_path / "out" / "talk.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) >= 5
    assert len((tmp_path / "out" / "talk.csv").read_text().splitlines()) >= 6
    assert len(list(read_video(tmp_path / "out" / "talk.mp4"))) >= 5


def test_pictures_that_find_no_room_end_with_a_whole_fragment(tmp_path, reconstruct, monkeypatch):
    monkeypatch.setattr(video_files._Tables, "write", lambda *_: None)  # they would fill the disk before
    video = write_video(tmp_path / "talk.mp4", frames=60)
    with full_disk(30_000):
        outcome = track_file(reconstruct, video, tmp_path / "out")
    assert "talk.mp4: " in outcome.error
    data, at = (tmp_path / "out" / "talk.mp4").read_bytes(), 0
    while at < len(data):  # MP4's boxes start with their length
        at += int.from_bytes(data[at : at + 4], "big")
    assert at == len(data) > 5_000


def test_pictures_are_on_the_disk_before_tables_can_fill_it(tmp_path, reconstruct):
    sizes = []

    def note(done, count):
        sizes.append(next(tmp_path.glob("out/.cln-*.mp4")).stat().st_size)

    track_file(reconstruct, write_video(tmp_path / "talk.mp4", frames=80), tmp_path / "out", progress=note)
    assert sizes[50] > 5_000 and len(set(sizes)) > 4


def test_a_last_piece_that_finds_no_room_is_told(tmp_path, reconstruct, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video_files, "_check_room", full)
    outcome = track_file(reconstruct, write_video(tmp_path / "talk.mp4", frames=3), tmp_path / "out")
    assert outcome.frames == 3 and outcome.error.startswith(f"{tmp_path / 'out' / 'talk.mp4'}: No space left")


def test_a_camera_that_is_not_there_and_one_that_stops(monkeypatch):
    with pytest.raises(InvalidInputError, match="camera 77: expected a camera, found none"):
        next(read_camera(77))

    class Camera:
        def __init__(self, number):
            self.left = 3

        def isOpened(self):  # noqa: N802 - OpenCV's name
            return True

        def set(self, *_):
            return True

        def read(self):
            self.left -= 1
            return self.left >= 0, PHOTO

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    frames = read_camera(0)
    times = [next(frames).time for _ in range(3)]
    assert times[0] < times[1] < times[2]
    with pytest.raises(InvalidInputError, match="camera 0: stopped after 3 frames"):
        next(frames)


def test_a_file_played_as_a_camera_drops_what_comes_too_late(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    seen = []
    for frame in read_camera(write_video(tmp_path / "a.mp4", frames=20)):
        seen.append(frame.index)
        assert clock[0] >= frame.time - 1e-6
        clock[0] += 0.1  # the caller takes two and a half frames
    assert seen[0] == 0 and 6 <= len(seen) <= 9 and seen == sorted(seen)


def test_missing_pyav_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(EngineUnavailableError, match=r"cln\[video\]"):
        video_info(tmp_path / "x.mp4")


def test_the_command_takes_videos_among_photographs(tmp_path, capsys):
    write_video(tmp_path / "talk.mp4", sound=True)
    cv2.imwrite(str(tmp_path / "me.png"), PHOTO)
    whole = write_video(tmp_path / "x.mp4", frames=40, options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "x.mp4").unlink()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    inputs, out = [str(tmp_path / name) for name in ("talk.mp4", "me.png", "cut.mp4")], tmp_path / "out"
    assert main([*inputs, "--out", str(out), "--no-video", "--threads", "1"]) == 1
    said = capsys.readouterr()
    assert "talk.mp4: 12 frames, 1 person, 12 faces; wrote" in said.out
    assert said.err.count("\n") == 1 and "cut.mp4: expected 40 frames" in said.err and "count (" in said.err
    names = {path.name for path in out.iterdir()}
    assert {"talk.jsonl", "talk.csv", "me.json", "cut.jsonl", "cut.csv"} <= names and "talk.mp4" not in names
    assert main([*inputs, "--out", str(out), "--no-video", "--threads", "1"]) == 1  # the cut one is tried again
    assert "talk.mp4: finished before" in capsys.readouterr().out
    assert main([*inputs, "--out", str(out), "--no-video", "--save", "csv"]) == 1  # a video's results are as they were
    assert "talk.mp4: finished before" in capsys.readouterr().out
    (tmp_path / "boxes.json").write_text('{"talk.mp4": [[1, 2, 30, 40]]}')
    assert main([*inputs, "--out", str(out), "--boxes", str(tmp_path / "boxes.json")]) == 2
    assert "got some of a video" in capsys.readouterr().err
    for option in (["--smoothing", "toString"], ["--max-faces", "0"]):
        assert main([inputs[1], "--out", str(out), *option]) == 2 and option[0] in capsys.readouterr().err
    (tmp_path / "no.mp4").write_text("no video")
    assert main([str(tmp_path / "no.mp4"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_is_a_sequence_where_that_is_asked_for(tmp_path, capsys):
    take, out = tmp_path / "take", tmp_path / "out"
    take.mkdir()
    for i in (2, 10, 1):
        cv2.imwrite(str(take / f"{i:04d}.png"), frame_at(i))
    (take / "._0003.png").write_bytes(b"a hidden file")
    command = [str(take), "--sequence", "--rate", "10", "--out", str(out), "--threads", "1"]
    assert main(command) == 0
    assert "3 frames, 1 person, 3 faces" in capsys.readouterr().out
    lines = [json.loads(line) for line in (out / "take.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["time"]) for line in lines] == [(0, 0), (1, 0.1), (2, 0.2)]
    assert len(list(read_video(out / "take.mp4"))) == 3
    assert main(command) == 0 and "finished before" in capsys.readouterr().out
    cv2.imwrite(str(take / "0010.png"), frame_at(11))
    assert main(command) == 0 and "3 frames" in capsys.readouterr().out  # other content
    assert main([*command[:2], "--overwrite", "--again", "--out", str(take)]) == 0
    assert (take / "take.mp4").is_file() and len(list(take.glob("0*.png"))) == 3
    capsys.readouterr()
    assert (
        main([str(out), "--sequence", "--out", str(out)]) == 2 and main([str(take), "--rate", "9", "--out", "x"]) == 2
    )
    first, second = capsys.readouterr().err.splitlines()
    assert "images with numbers in their names, found none" in first and "expected --sequence" in second


def test_a_camera_is_shown_until_q_and_s_saves_a_picture(tmp_path, reconstruct, monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 0.0)  # nothing comes too late
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    shown = []

    class Screen:
        def show(self, picture):
            shown.append(picture)
            return {2: "s", 4: "q"}.get(len(shown), "")

    saved = show_camera(reconstruct, write_video(tmp_path / "a.mp4"), out=tmp_path, window=Screen())
    assert len(shown) == 4 and len(saved) == 1
    np.testing.assert_array_equal(cv2.imread(str(saved[0])), shown[1])
    assert np.abs(shown[0].astype(int) - frame_at(0)).max() > 60


def test_no_display_and_no_arguments_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform == "linux":
        assert main(["--camera", str(write_video(tmp_path / "a.mp4"))]) == 2
        assert "expected a display" in capsys.readouterr().err
    assert main(["--camera", "77"]) == 2
    assert "camera 77: expected a camera, found none" in capsys.readouterr().err
    assert main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_file_is_closed_in_time(tmp_path):
    """FFmpeg's threads by frame hang in most closes of a stream that lacks its size and header."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(5):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8), format="bgr24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    good, size = path.read_bytes(), b"\xb0\x81\x40\xba\x81\x30"  # PixelWidth 64, PixelHeight 48
    assert good.count(size) == 1
    start = good.index(b"\x00\x00\x01\xb0")  # MPEG-4's own header, which says the size as well
    damaged = good[:start] + bytes(40) + good[start + 40 :]
    path.write_bytes(damaged.replace(size, b"\xb0\x81\x00\xba\x81\x00"))
    script = """
import sys
from runtime import FileFormatError
from runtime.video import read_video
for _ in range(60):
    try:
        list(read_video(sys.argv[1]))
    except FileFormatError:
        continue
    sys.exit("read")
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=30, cwd=Path(__file__).parents[2])
