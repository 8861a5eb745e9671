"""Names of the columns that environments, networks, runners and learners exchange."""

OBS = "obs"
ACTION_MASK = "action_mask"
ALIVE = "alive"
STATE = "state"
NEIGHBOURS = "neighbours"
ACTIONS = "actions"
LOG_PROB = "log_prob"
ORDER = "order"
ORDER_LOG_PROB = "order_log_prob"
REWARD = "reward"
TERMINATED = "terminated"
TRUNCATED = "truncated"
IS_FIRST = "is_first"

#: Columns with a row T + 1: the observation that follows the last step.
OBSERVATION_COLUMNS = (OBS, ACTION_MASK, ALIVE, STATE, NEIGHBOURS)
