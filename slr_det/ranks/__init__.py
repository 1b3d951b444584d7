"""One command line run by several ranks: rank 0 does what it says, the others train with it when they are asked to.

Under ``torchrun`` (or anything that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT) the same command
starts on every rank. Rank 0 alone reads the configuration, writes the run's folder, evaluates and reports. The others
wait until it announces a training phase, take part in it, and end when it ends.
"""

from slr_det.ranks.place import Place
from slr_det.ranks.start import together
from slr_det.ranks.team import Team, current

__all__ = ["Place", "Team", "current", "together"]
