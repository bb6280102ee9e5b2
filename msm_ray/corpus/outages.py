"""How many errors are too many for what came out to be called finished: one rule for all stages.

A finished stage is never asked for again, so an outage must not finish one. Errors here are prompts
without an answer after all tries; an answer that cannot be used is none. Whoever asks models ends
with a `UserError` where more than ``failed_share`` of what was asked for ended so, and more than a
handful. Nothing is lost by it: what was answered lies in the stage's scratch, and the same command
continues and asks for the rest.

The share is how patient a run is. It changes nothing that is made, so it is not part of a stage's
identity: a run that was stopped can go on with another one.
"""

from __future__ import annotations

from msm_ray.corpus.expansion import Expansion
from msm_ray.errors import UserError

FAILED_SHARE = 0.05
FEW = 5  # errors that stop nothing by themselves, where there is anything else
OUTAGE_SHARE = 0.5  # of a batch: no other draft mends it
OUTAGE_ROWS = 50  # a smaller batch may be of one kind

_ON = "what was answered is kept: run the same command again to ask for the rest"


def check_share(share: float) -> None:
    """UserError unless ``share`` is one."""
    if not 0 <= share <= 1:
        raise UserError(f"failed_share is {share}; allowed: 0 to 1")


def check_failed(failed: int, asked: int, share: float, error: str, where: str) -> None:
    """UserError if, after all drafts, too many of ``asked`` rows have ``failed``.

    Args:
        failed: rows that ended in an error.
        asked: all rows.
        share: of them that may.
        error: the last one, to be shown.
        where: who was asked.
    """
    if failed > share * asked and (failed > FEW or failed == asked):
        raise UserError(
            f"{failed} of {asked} ended in an error, and failed_share {share} allows"
            f" {max(FEW, int(share * asked))}; {_ON}. The last error, from {where}: {error}"
        )


def check_batch(
    failed: int, asked: int, planned: int, share: float, error: str, where: str
) -> None:
    """The same after a batch of a first draft: UserError if most of it, or of all, has failed.

    More drafts, or batches, would only make as many useless calls.
    """
    outage = failed >= OUTAGE_ROWS and failed > OUTAGE_SHARE * asked
    if failed > share * asked and (outage or failed == planned):
        raise UserError(
            f"{failed} of {asked} in a row ended in an error; {_ON}."
            f" The last, from {where}: {error}"
        )


def check_level(made: Expansion, share: float, where: str) -> None:
    """UserError if more than ``share`` of a level's items are missing for errors.

    What answers did not hold is a shortfall and stops nothing. A handful is not let pass: an item
    of an upper level stands for a large part of the plan.
    """
    if made.lost > share * made.wanted:
        raise UserError(
            f"{made.lost} of {made.wanted} {made.level} are missing because the model did not"
            f" answer, and failed_share is {share}; {_ON}."
            f" The last error, from {where}: {made.failures[-1].error}"
        )
