"""JSON text of strangers: its values and their depth are limited, whatever its bytes."""

import json

import pytest

from gvbsm.files import jsontext


def test_values_come_back_as_they_were_written():
    content = {"a": [1, 2.5, None, True, "ä, [ {"], "b": {"c": []}}
    assert jsontext.parse(json.dumps(content)) == content


@pytest.mark.parametrize("text", ["[]", "{}", '"a"', "1"])
def test_the_number_of_values_is_limited_whatever_they_are(text, monkeypatch):
    monkeypatch.setattr(jsontext, "MOST_VALUES", 100)
    assert len(jsontext.parse(f"[{','.join([text] * 40)}]")) == 40
    with pytest.raises(ValueError, match="more than 100 values"):
        jsontext.parse(f"[{','.join([text] * 200)}]")


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_the_depth_of_values_is_limited(start, end):
    def nested(levels):
        return start * levels + "1" + end * levels

    jsontext.parse(nested(jsontext.MOST_LEVELS - 1))
    for levels in (jsontext.MOST_LEVELS + 1, 900, 100_000):
        with pytest.raises(ValueError, match="deep in one another"):
            jsontext.parse(nested(levels))
