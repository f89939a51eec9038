"""JSON files are read in pieces of any size as by the json module."""

import io
import json
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.data.annotations import json_stream

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(json_values), st.dictionaries(st.text(min_size=3), json_values), st.sampled_from([None, 2]))
def test_lists_are_streamed_wherever_the_pieces_end(elements, others, indent):
    text = json.dumps({**others, "of": elements, "a": 12}, indent=indent, ensure_ascii=False)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = json.dumps(json.loads(text)).encode()
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", 3)
        file.write(data)
        file.seek(0)
        assert [element for _, element in json_stream.stream_lists(file, ("of",))] == elements


small_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "}, {", "}]"]), small_values, max_size=3), max_size=12),
    st.lists(small_values, max_size=3),
    st.sampled_from([None, 2]),
    st.sampled_from([3, 50, 200, 1 << 20]),
)
def test_objects_are_decoded_many_at_a_time_wherever_the_pieces_end(objects, others, indent, chunk):
    text = json.dumps({"before": objects, "of": objects, "after": others}, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        parts = json_stream.stream_parts(io.BytesIO(text.encode()), ("of",), {"of": json_stream.decode_any})
        # As text, because 1 == 1.0.
        assert json.dumps([element for _, part in parts for element in part]) == json.dumps(objects)
        elements = json_stream.stream_list(io.BytesIO(json.dumps(objects, indent=indent).encode()))
        assert json.dumps(list(elements)) == json.dumps(objects)


@pytest.mark.parametrize("separator", ["} ,{", "}\n, {", "},{"])
def test_white_space_between_objects_does_not_matter(separator):
    calls, objects = [], [{"a": i} for i in range(1000)]
    text = json.dumps({"of": objects}).replace("}, {", separator)

    def decode(part):
        calls.append(part)
        return json_stream.decode_any(part)

    parts = json_stream.stream_parts(io.BytesIO(text.encode()), ("of",), {"of": decode})
    assert [element for _, part in parts for element in part] == objects
    assert len(calls) <= 2


@pytest.mark.parametrize("elements", [list(range(1000)), 1000 * [[{}, 1]], 1000 * [{"a": {}}, 1]])
def test_text_without_neighbouring_objects_is_searched_once_per_chunk(elements, monkeypatch):
    searches = []
    ends = json_stream._Text._ends_of_objects
    monkeypatch.setattr(json_stream._Text, "_ends_of_objects", lambda text: searches.append(1) or ends(text))
    text = json.dumps({"skipped": elements, "of": [], "also": elements})
    found = json_stream.stream_lists(io.BytesIO(text.encode()), ("of", "also"))
    assert [element for _, element in found] == elements
    assert len(searches) <= 3  # the chunk, and the end of the file


@pytest.mark.parametrize("last", ['{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": 100000000000000000000000}'])
def test_what_the_fast_decoder_refuses_is_read_as_by_json(last, tmp_path):
    text = f'[{{"a": 1}}, {last}, {{"a": [{{}}, {{}}]}}]'
    path = tmp_path / "x.json"
    path.write_text(text)
    assert repr(list(json_stream.stream_list(io.BytesIO(text.encode())))) == repr(json.loads(text))
    assert repr(json_stream.load_json(path)) == repr(json.loads(text))
