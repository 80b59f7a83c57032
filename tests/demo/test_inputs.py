"""The demo's own truth, without a browser: inputs, pre- and post-processing, on onnxruntime alone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import filetypes, speech, text

CONFIG = {"beg_size": 8, "end_size": 8, "padding_token": 256, "block_size": 32}


def test_listener_agrees_with_the_human_transcript_of_the_call(silero_vad, recording, turns, reference):
    heard = speech.Listener(functools.partial(reference, silero_vad)).hear_all(recording) > 0.5

    middles = (np.arange(len(heard)) + 0.5) * speech.CHUNK_S
    marked = np.array([any(begin <= at < end for begin, end in turns) for at in middles])
    assert 0.7 < marked.mean() < 0.8  # there is enough of both
    assert (heard == marked).mean() > 0.95


def test_turn_of_the_speakers_is_clear_to_the_reference(silero_vad, recording, turns, reference):
    begin, end = speech.TURN
    samples = recording[round(begin * speech.RATE) : round(end * speech.RATE)]
    heard = speech.Listener(functools.partial(reference, silero_vad)).hear_all(samples)
    (_, first_ends), (second_begins, _) = [turn for turn in turns if begin < turn[1] and turn[0] < end]
    assert len(heard) == 32
    (_, heard_end), (heard_begin, _) = speech.spans(heard, begin)
    assert heard_end == pytest.approx(first_ends, abs=0.1)
    assert heard_begin == pytest.approx(second_begins, abs=0.1)


@pytest.mark.parametrize("kind", ["nothing", "noise", "chord"])
def test_what_is_no_voice_is_none_to_the_reference(silero_vad, reference, kind):
    assert speech.Listener(functools.partial(reference, silero_vad)).hear_all(speech.not_speech(kind, 1)).max() < 0.1


def test_unknown_kind_of_noise_is_named():
    with pytest.raises(ValueError, match="'bark' is not one of"):
        speech.not_speech("bark", 1)


@given(st.lists(st.booleans(), max_size=40))
def test_spans_cover_exactly_the_chunks_of_speech(flags):
    found = speech.spans(np.array(flags, float))
    covered = {i for begin, end in found for i in range(round(begin / speech.CHUNK_S), round(end / speech.CHUNK_S))}
    assert covered == {i for i, flag in enumerate(flags) if flag}
    assert all(found[i][1] < found[i + 1][0] for i in range(len(found) - 1))


def test_turns_that_overlap_are_joined(tmp_path):
    rttm = tmp_path / "call.rttm"
    lines = [
        f"SPEAKER call 1 {begin} {length} <NA> <NA> someone <NA> <NA>" for begin, length in ((5, 1), (0, 2), (1, 3))
    ]
    rttm.write_text("\n".join(lines), encoding="utf-8")
    assert speech.read_turns(rttm) == [(0, 4), (5, 6)]


def test_wav_of_another_rate_is_refused(tmp_path):
    import wave

    path = tmp_path / "slow.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16))
    with pytest.raises(ValueError, match=r"slow.wav.*8000"):
        speech.read_wav(path)


def test_reference_reads_the_picture_and_knows_its_direction(pp_ocr_reader, pp_ocr_direction, letters, reference):
    picture = text.picture_of("Hello GPU", 160)
    (scores,) = reference(pp_ocr_reader, {"x": text.as_feed(picture, 160)}).values()
    assert text.decode(scores, letters) == "Hello GPU"
    for turned in (0, 180):
        (scores,) = reference(pp_ocr_direction, {"x": text.as_feed(picture.rotate(turned), 192)}).values()
        assert text.direction(scores) == turned
        assert scores.max() > 0.99


def test_letters_fit_the_readers_classes(pp_ocr_reader, letters, reference):
    (scores,) = reference(pp_ocr_reader, {"x": text.as_feed(text.picture_of("x", 64), 64)}).values()
    assert len(letters) == scores.shape[-1]


def test_text_too_wide_for_its_picture_is_refused():
    with pytest.raises(ValueError, match="does not fit into 20"):
        text.picture_of("Hello GPU", 20)


def test_feed_is_padded_with_zeros_on_the_right():
    feed = text.as_feed(text.picture_of("x", 30), 50)
    assert feed.shape == (1, 3, 48, 50)
    assert (feed[..., :30].min(), feed[..., :30].max()) == (pytest.approx(-1, abs=0.1), 1)
    assert not feed[..., 30:].any()


@given(st.text("abc ", max_size=12), st.data())
def test_decoding_undoes_any_ctc_alignment(written, data):
    letters = ["", "a", "b", "c", " "]
    steps = [0] * data.draw(st.integers(0, 2))
    for place, letter in enumerate(written):
        if place and letter == written[place - 1]:
            steps.append(0)
        steps += [letters.index(letter)] * data.draw(st.integers(1, 3)) + [0] * data.draw(st.integers(0, 2))
    scores = np.eye(len(letters), dtype=np.float32)[np.array(steps, int)][np.newaxis]
    assert text.decode(scores, letters) == written


def test_reference_knows_the_files_by_their_bytes(magika, magika_config, reference):
    files = filetypes.samples()
    feeds = {"bytes": np.stack([filetypes.as_features(data, magika_config) for data in files.values()])}
    scores = reference(magika, feeds)["target_label"]
    assert filetypes.as_types(scores, magika_config) == list(files)
    assert scores.max(axis=1).min() > 0.9


def test_doubtful_type_is_not_named():
    config = {"target_labels_space": ["c", "sql"], "thresholds": {"sql": 0.9}, "medium_confidence_threshold": 0.5}
    assert filetypes.as_types(np.array([[0.6, 0.4], [0.2, 0.8], [0.05, 0.95]]), config) == ["c", "?", "sql"]


@given(st.binary(max_size=100))
def test_features_are_the_stripped_ends_padded_towards_the_middle(data):
    features = list(filetypes.as_features(data, CONFIG))
    begin = [byte for byte in features[:8] if byte != 256]
    end = [byte for byte in features[8:] if byte != 256]
    assert features == begin + [256] * (16 - len(begin) - len(end)) + end
    assert bytes(begin) == data[:32].lstrip()[:8]
    assert bytes(end) == data[-32:].rstrip()[-8:]


def test_configuration_that_wants_the_middle_of_a_file_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"mid_size": 512, "use_inputs_at_offsets": false}', encoding="utf-8")
    with pytest.raises(ValueError, match="middle of a file"):
        filetypes.read_config(path)
