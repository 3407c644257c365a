"""Commands that the documentation shows and no test runs are at least commands that could be run."""

from __future__ import annotations

import subprocess

import pytest

from tests.docs.arguments import refusals
from tests.docs.commands import Command, complaints, parse
from tests.docs.markdown import Block, documents, read_blocks

BLOCKS = [block for path in documents() for block in read_blocks(path) if block.language == "bash"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_is_shell_whose_commands_are_there(block: Block) -> None:
    syntax = subprocess.run(["bash", "-n"], input=block.code, text=True, capture_output=True, check=False)
    assert syntax.returncode == 0, f"{block.place}: {syntax.stderr}"
    wrong = [f"{' '.join(command.words)}: {each}" for command in parse(block.code) for each in complaints(command)]
    assert not wrong, f"{block.place}: {wrong}"


def one(line: str) -> Command:
    [command] = parse(line)
    return command


SHOWN = [(block, each) for block in BLOCKS for each in parse(block.code) if each.module is not None]
TRIED = [
    ("python -m training.pretrain --data photos/ --out runs/a", True),
    ("python -m training.pretrain --data photos/ --out runs/a --epoch 3", False),
    ("python -m training.pretrain --data photos/ --out runs/a --epochs 0", False),
    ("python -m training.finetune --data labeled/", False),
    ("torchrun --nproc-per-node=8 -m training.pretrain --data a --out b --strategy fsdp", True),
    ("python -m export runs/a --out bundles/a --int8 sometimes", False),
    ("MAEVE_LANES=2 python -m service --port 9000", True),
    ("MAEVE_LANES=none python -m service", False),
    ("python -m service.keys shop --rate 50", True),
    ("python -m benchmarks.keep --bundle b --data d --fit-data f --nothing", False),
    ("python -m training.nothing", False),
]


@pytest.fixture(scope="module")
def answers() -> list[str | None]:
    """What our commands say to those that are shown, and then to those that are tried: one process imports them all."""
    return refusals([command for _, command in SHOWN] + [one(line) for line, _ in TRIED])


def test_our_commands_take_the_arguments_that_are_shown(answers: list[str | None]) -> None:
    assert {"training.pretrain", "export", "export.bench", "service"} <= {
        each.module[0] for _, each in SHOWN if each.module
    }
    wrong = [
        f"{block.place}: {' '.join(command.words)}\n    {answer}"
        for (block, command), answer in zip(SHOWN, answers, strict=False)
        if answer is not None
    ]
    assert not wrong, "\n".join(wrong)


def test_wrong_arguments_are_refused(answers: list[str | None]) -> None:
    taken = [answer is None for answer in answers[len(SHOWN) :]]
    assert taken == [right for _, right in TRIED]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("make serve PORT=9000 BUNDLE=bundles/a", None),
        ("make dinner", "no target dinner"),
        ("make serve PROT=9000", "no variable PROT"),
        ("pip install -c constraints.txt -e '.[train,export]'", None),
        ("pip install -e '.[magic]'", "no extra magic"),
        ("pip install -c limits.txt torch", "no file limits.txt"),
        ("docker compose up --build maeve-gpu", None),
        ("docker compose --profile gpu up -d", None),
        ("docker compose up maeve-tpu", "no service maeve-tpu"),
        ("docker compose --profile tpu up", "no service has the profile tpu"),
        ("docker compose -f other.yml up", "no file other.yml"),
        ("docker build -f deploy/Dockerfile -t maeve:cpu --target service .", None),
        ("docker build -f deploy/Dockerfile --target nowhere .", "no stage nowhere"),
        ("sbatch deploy/slurm/nothing.sbatch", "no file deploy/slurm/nothing.sbatch"),
        ("MAEVE_LANE=2 docker compose up", "MAEVE_LANE is no setting"),
        ("kubectl apply -f somewhere/", None),
    ],
)
def test_what_is_said_of_a_command(line: str, complaint: str | None) -> None:
    found = complaints(one(line))
    assert (not found) if complaint is None else (complaint in found[0])


def test_a_piece_of_shell_is_taken_apart() -> None:
    code = """
    # a comment
    A=1 B='2 3' first --flag "$(cat x | wc)" >out.txt 2>&1 | second  # another
    third \\
        --more && fourth 'two
    lines'; fifth <<END
    not a command
END
    sixth
    """
    found = parse(code)
    assert [command.words[0] for command in found] == ["first", "second", "third", "fourth", "fifth", "sixth"]
    assert found[0] == Command(("first", "--flag", "$(cat x | wc)"), {"A": "1", "B": "2 3"})
    assert found[2].words == ("third", "--more")


@pytest.mark.parametrize(
    ("line", "is_checked"),
    [
        ("curl localhost:8000/embed", False),
        ("python compare.py", False),
        ("make serve", True),
        ("python -m training.report runs/a", True),
        ("torchrun --nproc-per-node=2 -m training.pretrain --data a --out b", True),
        ("python -m pip install maeve", True),
        ("docker compose up", True),
    ],
)
def test_what_is_only_checked(line: str, is_checked: bool) -> None:
    assert one(line).is_checked == is_checked
