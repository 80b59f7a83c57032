from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pytest_webaccel.errors import FeedError
from pytest_webaccel.parity.stored import read_sets


def a_model() -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Sub", ["a", "b"], ["y"])],
        "g",
        [value("a", TensorProto.FLOAT, [2]), value("b", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
    )
    data: bytes = helper.make_model(graph).SerializeToString()
    return data


A, B = np.array([1, 2], np.float32), np.array([5, 7], np.float32)


def write_set(folder, *, names: tuple[str, str, str] = ("", "", "")):
    folder.mkdir(parents=True)
    for file, name, array in zip(("input_0.pb", "input_1.pb", "output_0.pb"), names, (A, B, A - B), strict=True):
        (folder / file).write_bytes(numpy_helper.from_array(array, name).SerializeToString())


@pytest.mark.parametrize("names", [("", "", ""), ("a", "b", "y"), ("in", "in2", "out")])
def test_the_form_of_onnx_is_read_by_name_or_else_by_place(tmp_path, names):
    write_set(tmp_path / "test_data_set_0", names=names)
    (one,) = read_sets(tmp_path, a_model())
    assert one.name == "test_data_set_0"
    np.testing.assert_equal((one.feeds["a"], one.feeds["b"], one.expected["y"]), (A, B, A - B))


def test_names_beat_places(tmp_path):
    write_set(tmp_path / "set", names=("b", "a", "y"))
    (one,) = read_sets(tmp_path / "set", a_model())
    np.testing.assert_equal((one.feeds["b"], one.feeds["a"]), (A, B))


def test_sets_come_in_the_order_of_their_numbers(tmp_path):
    for number in (0, 10, 2):
        write_set(tmp_path / f"test_data_set_{number}")
    assert [one.name.rpartition("_")[2] for one in read_sets(tmp_path, a_model())] == ["0", "2", "10"]


def test_archives_hold_feeds_and_perhaps_answers(tmp_path):
    np.savez(tmp_path / "one.npz", a=A, b=B)
    np.savez(tmp_path / "two.npz", a=A, b=B, y=A - B)
    one, two = read_sets(tmp_path, a_model())
    assert (set(one.feeds), set(one.expected)) == ({"a", "b"}, set())
    assert (set(two.feeds), set(two.expected)) == ({"a", "b"}, {"y"})
    (alone,) = read_sets(tmp_path / "two.npz", a_model())
    np.testing.assert_equal(alone.expected["y"], A - B)


def test_a_name_that_the_model_lacks_is_named_with_those_that_it_has(tmp_path):
    np.savez(tmp_path / "one.npz", a=A, c=B)
    with pytest.raises(FeedError, match=r"one\.npz: the model has neither input nor output 'c'\. Its inputs are a, b"):
        read_sets(tmp_path, a_model())


def test_a_file_more_than_the_model_has_inputs_is_refused(tmp_path):
    write_set(tmp_path / "set")
    (tmp_path / "set" / "input_2.pb").write_bytes(numpy_helper.from_array(A).SerializeToString())
    with pytest.raises(FeedError, match=r"input_2\.pb: the model has 2 inputs, a, b"):
        read_sets(tmp_path / "set", a_model())


@pytest.mark.parametrize("name", ["broken.npz", "input_0.pb"])
def test_a_file_that_is_cut_short_is_named(tmp_path, name):
    np.savez(tmp_path / "whole.npz", a=A, b=B)
    write_set(tmp_path / "set")
    whole = (tmp_path / "whole.npz" if name.endswith("npz") else tmp_path / "set" / name).read_bytes()
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / name).write_bytes(whole[: len(whole) - 5])
    with pytest.raises(FeedError, match=rf"{name}: no .* that can be read"):
        read_sets(folder, a_model())


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "one.npz", a=np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FeedError, match=r"one\.npz"):
        read_sets(tmp_path, a_model())


@pytest.mark.parametrize("there", [True, False])
def test_a_place_without_any_says_what_is_looked_for(tmp_path, there):
    folder = tmp_path / "empty"
    if there:
        folder.mkdir()
    with pytest.raises(FeedError, match=r"numpy\.savez" if there else "no such file or folder"):
        read_sets(folder, a_model())
