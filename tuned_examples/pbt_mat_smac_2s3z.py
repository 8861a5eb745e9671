"""Population based training of four MATs on SMAX 2s3z: learning rate, clip range and entropy.

``rllib train file tuned_examples/pbt_mat_smac_2s3z.py``. Every 20 iterations the worst trial takes
over weights and settings of the best one, and changes the settings. Trials that find no free core
take turns, at the price of a restart each time.
"""

from ray import tune

from rllib_seqmarl import MATConfig

config = (
    MATConfig()
    .environment("smac", env_config={"map_name": "2s3z", "simulator": "smax"})
    .env_runners(num_env_runners=0, num_envs_per_env_runner=32, rollout_fragment_length=100)
    .training(
        lr=tune.loguniform(1e-4, 2e-3),
        clip_param=tune.uniform(0.05, 0.2),
        entropy_coeff=tune.loguniform(1e-3, 3e-2),
        num_epochs=10,
        use_value_active_mask=True,
    )
    .debugging(seed=1)
)
num_samples = 4
metric = "env_runners/win_rate"
scheduler = {
    "type": "pbt",
    "perturbation_interval": 20,
    "hyperparam_mutations": {
        "lr": tune.loguniform(1e-4, 2e-3),
        "clip_param": tune.uniform(0.05, 0.2),
        "entropy_coeff": tune.loguniform(1e-3, 3e-2),
    },
}
stop = {"num_env_steps_sampled_lifetime": 800_000}
