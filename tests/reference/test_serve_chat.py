"""Templates of chats: what they may use, where they come from, and what is refused."""

import json
import shutil
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="pip install 'specsim-llm[serve]'")

from reference.checkpoints import PAIR, resolve
from reference.serving.chat import plain, template_of
from reference.serving.protocol import ProtocolError
from specsim.checks import SpecsimError

CHAT = [
    {"role": "system", "content": "Be <brief> & é."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho"},
    {"role": "user", "content": "hm"},
]
TEMPLATES = {
    "a generation block": (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}\n"
        "  {% generation %}{{ m.content }}{% endgeneration %}\n"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "a scope of its own": (
        "{% set x = 'outside' %}{% generation %}{% set x = 'inside' %}{{ x }}{% endgeneration %}"
        "{{ x }}"
    ),
    "break and continue": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{{ m.content }}{% if m.role == 'assistant' %}{% break %}{% endif %}{% endfor %}"
    ),
    "json": "{{ messages | tojson }}",
    "json, indented": "{{ messages | tojson(indent=2, sort_keys=true) }}",
    "json in ASCII": "{{ messages[0] | tojson(ensure_ascii=True, separators=(',', ':')) }}",
    "no tools": "{% if tools is none and documents is none %}none{% else %}some{% endif %}",
    "the year": "{{ strftime_now('%Y') }}",
    "tokens": "{{ bos_token }}{{ messages[1].content }}{{ eos_token }}",
    "the answer's turn": "{% if add_generation_prompt %}<assistant>{% endif %}",
}
BOS, EOS = "<s>", "</s>"


def folder_with(place: Path, template: object) -> Path:
    """A checkpoint's folder with a template in its tokenizer_config.json."""
    settings = {"bos_token": {"content": BOS}, "eos_token": EOS, "chat_template": template}
    (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return place


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_rendered_as_by_transformers(tmp_path, name: str) -> None:
    theirs = pytest.importorskip("transformers.utils.chat_template_utils")
    template = TEMPLATES[name]
    (expected,), _ = theirs.render_jinja_template(
        [CHAT], chat_template=template, add_generation_prompt=True, bos_token=BOS, eos_token=EOS
    )
    assert template_of(folder_with(tmp_path, template))[0](CHAT) == expected


def test_templates_are_rendered_without_transformers(tmp_path) -> None:
    def rendered(name: str) -> str:
        return template_of(folder_with(tmp_path, TEMPLATES[name]))[0](CHAT)

    assert rendered("a generation block") == (
        "<system>Be <brief> & é.<user>hi<assistant>ho<user>hm"
    )
    assert rendered("break and continue") == "hiho"
    assert json.loads(rendered("json")) == CHAT
    assert "<brief> & é" in rendered("json")
    assert rendered("the year") == str(datetime.now().year)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no\\nsystem role') }}", "no system role"),
        ("{{ missing.field }}", "'missing' is undefined"),
        ("{{ '{1}'.format(0) }}", "index out of range"),
        ("{{ 1 // 0 }}", "zero"),
    ],
)
def test_what_a_template_refuses_is_one_line(tmp_path, template: str, said: str) -> None:
    render, _ = template_of(folder_with(tmp_path, template))
    with pytest.raises(ProtocolError, match="the chat template refuses this: ") as refused:
        render(CHAT)
    assert refused.value.status == 400
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_comes_first_then_the_default_of_several(tmp_path) -> None:
    several = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert template_of(folder_with(tmp_path, several))[0](CHAT) == "D"
    (tmp_path / "chat_template.jinja").write_text("é {{ messages[1].content }}", encoding="utf-8")
    render, said = template_of(tmp_path)
    assert render(CHAT) == "é hi"
    assert tmp_path.name in said


@pytest.mark.parametrize("template", [None, [], [{"name": "rag", "template": "R"}]])
def test_without_a_template_chats_are_plain_lines(tmp_path, template) -> None:
    render, said = template_of(folder_with(tmp_path, template))
    assert render is plain
    assert "no chat template" in said


@pytest.mark.parametrize("template", [["a"], [{"name": "default", "template": 3}], 3, {"a": "b"}])
def test_a_template_of_another_form_is_refused_in_a_sentence(tmp_path, template) -> None:
    with pytest.raises(SpecsimError, match=r"tokenizer_config\.json: chat_template must be a text"):
        template_of(folder_with(tmp_path, template))


def test_a_template_that_cannot_be_read_is_named(tmp_path) -> None:
    with pytest.raises(SpecsimError, match="unknown tag 'unknown'"):
        template_of(folder_with(tmp_path, "{% unknown %}"))
    (tmp_path / "chat_template.jinja").write_bytes(b"caf\xe9")
    with pytest.raises(SpecsimError, match=r"chat_template\.jinja is not text in UTF-8"):
        template_of(tmp_path)


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_the_template_of_a_hub_s_checkpoint_is_fetched(tmp_path, monkeypatch, file: str) -> None:
    hub = pytest.importorskip("huggingface_hub")
    stored, fetched = tmp_path / "stored", tmp_path / "fetched"
    shutil.copytree(PAIR / "draft", stored)
    folder_with(stored, "of the settings")
    if file == "chat_template.jinja":
        (stored / file).write_text("of the file", encoding="utf-8")
    fetched.mkdir()

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        for each in stored.iterdir():
            if any(fnmatch(each.name, pattern) for pattern in allow_patterns):
                shutil.copy(each, fetched)
        return str(fetched)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    render, _ = template_of(resolve("owner/name"))
    assert render(CHAT) == ("of the file" if file == "chat_template.jinja" else "of the settings")
