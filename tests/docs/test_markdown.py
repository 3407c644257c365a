"""No code in the documentation escapes: what counts as a block, and in which languages blocks may be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.docs.markdown import Block, documents, read_blocks

LANGUAGES = {"bash", "python", "js", "html", "json", "yaml", "text"}
BLOCKS = [block for path in documents() for block in read_blocks(path)]
PAGE = """
# Title

```bash
echo one
```

- a list

  <!-- not run: it takes a day -->
  ```python
  print(1)
  ```

  ~~~js
  1
  ~~~

<!-- fails -->

```bash
false
```
<!-- output -->
```text
no
```

```{tip}
Text, and

<!-- run -->
```bash
nested
```

    indented

````{grid}
```yaml
a: 1
```
````

:::{code-block} python
hidden
:::

<pre>shown</pre>
"""


def read(tmp_path: Path, text: str) -> list[Block]:
    (tmp_path / "page.md").write_text(text)
    return read_blocks("page.md", tmp_path)


def test_every_kind_of_code_is_found_with_its_line_and_its_comment(tmp_path: Path) -> None:
    text = PAGE.replace("```{tip}", "````{tip}").replace("nested\n```\n", "nested\n```\n````\n")
    blocks = read(tmp_path, text)
    assert [(block.language, block.marks) for block in blocks] == [
        ("bash", {}),
        ("python", {"not run": "it takes a day"}),
        ("js", {}),
        ("bash", {"fails": ""}),
        ("text", {"output": ""}),
        ("bash", {"run": ""}),
        ("indented code", {}),
        ("yaml", {}),
        ("{code-block}", {}),
        ("code in HTML", {}),
    ]
    lines = text.splitlines()
    for block in blocks[:6]:
        assert lines[block.line - 1].strip() == block.code.splitlines()[0]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_is_in_a_language_that_is_run_or_parsed(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block.place} is in {block.language or 'no language'}, not {LANGUAGES}"
    assert block.marks.get("not run") != "", f"{block.place}: say why it is not run: <!-- not run: REASON -->"
    if block.language == "json":
        json.loads(block.code)
    if block.language == "yaml":
        list(yaml.safe_load_all(block.code))
