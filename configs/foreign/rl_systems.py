"""Systems for reinforcement learning: verl, OpenRLHF, NeMo-RL and others."""

from __future__ import annotations

from configs.foreign.systems import System

VERL = System(
    name="verl",
    command=r"\bverl\.(?:trainer|experimental|model_merger)\b|\bmain_ppo\.py\b|\brecipe\.\w+\.main_\w+",
    marks=(
        "actor_rollout_ref.",
        "algorithm.adv_estimator",
        "data.train_files trainer.",
        "data.train_files data.val_files",
        "model.partial_pretrain",
    ),
    objectives=("algorithm.adv_estimator",),
    commands=((r"sft_trainer", "SFT"),),
    remedy="Its rows are read with data.columns={reward_model.ground_truth: solution}; docs/data.md has their other shapes.",
    table="""
        actor_rollout_ref.model.path = model.path
        model.partial_pretrain = model.path
        actor_rollout_ref.model.lora_rank = model.lora.r
        model.lora_rank = model.lora.r
        actor_rollout_ref.model.lora_alpha = model.lora.alpha
        model.lora_alpha = model.lora.alpha
        actor_rollout_ref.model.target_modules = model.lora.target_modules
        model.target_modules = model.lora.target_modules
        actor_rollout_ref.model.trust_remote_code = model.trust_remote_code
        data.trust_remote_code = model.trust_remote_code
        actor_rollout_ref.model.enable_gradient_checkpointing = learner.gradient_checkpointing
        data.train_files = data.path
        data.val_files = data.eval_path
        data.prompt_key = data.prompt_column
        data.response_key = data.completion_column
        data.multiturn.messages_key = data.messages_column
        data.max_prompt_length = data.max_prompt_length
        data.max_response_length = actors.max_completion_length
        data.max_length = data.max_length
        data.shuffle = data.shuffle
        data.seed = seed
        data.train_max_samples = data.train_samples
        data.train_batch_size = learner.train_batch_size; {} prompts x {actor_rollout_ref.rollout.n|1} completions, if a step takes all
        actor_rollout_ref.actor.ppo_mini_batch_size = learner.train_batch_size; {} prompts x {actor_rollout_ref.rollout.n|1} completions
        actor_rollout_ref.rollout.n = actors.num_generations
        actor_rollout_ref.rollout.temperature = actors.temperature
        actor_rollout_ref.rollout.top_p = actors.top_p
        actor_rollout_ref.rollout.top_k = actors.top_k
        actor_rollout_ref.rollout.gpu_memory_utilization = actors.gpu_memory_utilization
        actor_rollout_ref.rollout.tensor_model_parallel_size = actors.gpus_per_worker
        actor_rollout_ref.rollout.enforce_eager = actors.enforce_eager
        actor_rollout_ref.rollout.max_num_seqs = actors.max_num_seqs
        actor_rollout_ref.rollout.val_kwargs.n = evaluation.num_generations
        actor_rollout_ref.rollout.val_kwargs.temperature = evaluation.temperature
        actor_rollout_ref.rollout.val_kwargs.top_p = evaluation.top_p
        actor_rollout_ref.actor.optim.lr = learner.learning_rate
        optim.lr = learner.learning_rate
        actor_rollout_ref.actor.optim.lr_warmup_steps = learner.warmup_steps; -1 leaves it to the ratio
        actor_rollout_ref.actor.optim.lr_warmup_steps_ratio = learner.warmup_ratio
        actor_rollout_ref.actor.optim.warmup_style = learner.lr_scheduler_type
        actor_rollout_ref.actor.optim.weight_decay = learner.weight_decay
        optim.weight_decay = learner.weight_decay
        actor_rollout_ref.actor.grad_clip = learner.max_grad_norm
        actor_rollout_ref.actor.ppo_epochs = learner.num_iterations
        actor_rollout_ref.actor.ppo_max_token_len_per_gpu = learner.token_budget
        actor_rollout_ref.actor.clip_ratio = learner.epsilon
        actor_rollout_ref.actor.clip_ratio_low = learner.epsilon
        actor_rollout_ref.actor.clip_ratio_high = learner.epsilon_high
        actor_rollout_ref.actor.kl_loss_coef = learner.beta; {} if use_kl_loss is true, else 0
        actor_rollout_ref.actor.kl_loss_type = learner.kl_estimator; low_var_kl is k3, kl is k1, mse is k2
        actor_rollout_ref.actor.use_kl_loss = learner.beta; 0 if it is false
        actor_rollout_ref.actor.entropy_coeff = learner.entropy_coef
        actor_rollout_ref.actor.loss_agg_mode = learner.loss_type; token-mean is dapo, seq-mean-token-mean grpo, seq-mean-token-sum-norm dr_grpo
        actor_rollout_ref.actor.fsdp_config.optimizer_offload = learner.offload_optimizer
        algorithm.adv_estimator = learner.advantage_estimator; grpo, rloo or reinforce_plus_plus
        algorithm.norm_adv_by_std_in_grpo = learner.scale_rewards; group if true, none if false
        algorithm.use_kl_in_reward = learner.kl_in_reward
        algorithm.kl_ctrl.kl_coef = learner.beta; {} with kl_in_reward
        algorithm.filter_groups.enable = learner.filter_zero_variance
        algorithm.filter_groups.max_num_gen_batches = learner.max_num_gen_batches
        custom_reward_function.path = rewards.functions; [{}:{custom_reward_function.name|compute_score}], with the arguments of docs/rewards.md
        reward_model.reward_manager = rewards.functions; by name, see docs/rewards.md
        trainer.n_gpus_per_node = learner.ranks; of all GPUs, some sample (actors.num_workers) and the others learn
        trainer.total_epochs = learner.num_train_epochs
        trainer.total_training_steps = learner.max_steps
        trainer.save_freq = cluster.save_steps
        trainer.test_freq = evaluation.steps
        trainer.max_actor_ckpt_to_keep = cluster.save_total_limit
        trainer.project_name = cluster.wandb_project
        trainer.experiment_name = cluster.run_name
        trainer.logger = cluster.report_to; tensorboard or wandb of {}
        trainer.default_local_dir = out_dir
    """,
)

OPENRLHF = System(
    name="OpenRLHF",
    command=r"\bopenrlhf\.cli\.",
    marks=(
        "pretrain prompt_data",
        "pretrain rollout_batch_size",
        "pretrain micro_train_batch_size",
        "pretrain advantage_estimator",
        "pretrain actor_num_gpus_per_node",
        "pretrain dataset input_key",
        "prompt_data n_samples_per_prompt",
        "prompt_data remote_rm_url",
    ),
    objectives=("advantage_estimator",),
    commands=(
        (r"train_sft", "SFT"),
        (r"train_dpo", "DPO"),
        (r"train_kto", "KTO"),
        (r"train_rm\b", "reward modelling"),
        (r"train_ppo", "PPO"),
    ),
    remedy="docs/data.md has the settings that read the shapes of its rows.",
    table="""
        pretrain = model.path
        prompt_data = data.path
        dataset = data.path
        prompt_split = data.split
        dataset_split = data.split
        eval_dataset = data.eval_path
        eval_split = data.eval_split
        input_key = data.prompt_column
        output_key = data.completion_column
        label_key = data.columns; {{}: solution}
        max_samples = data.train_samples
        prompt_max_len = data.max_prompt_length
        generate_max_len = actors.max_completion_length
        max_len = data.max_length | data.max_prompt_length
        n_samples_per_prompt = actors.num_generations
        temperature = actors.temperature
        top_p = actors.top_p
        vllm_num_engines = actors.num_workers
        vllm_tensor_parallel_size = actors.gpus_per_worker
        vllm_gpu_memory_utilization = actors.gpu_memory_utilization
        enforce_eager = actors.enforce_eager
        actor_num_gpus_per_node = learner.ranks; {} x {actor_num_nodes|1} nodes
        train_batch_size = learner.train_batch_size
        rollout_batch_size = cluster.sync_every_steps; {} prompts x {n_samples_per_prompt|1} completions / train_batch_size steps
        actor_learning_rate = learner.learning_rate
        learning_rate = learner.learning_rate
        lr_scheduler = learner.lr_scheduler_type
        lr_warmup_ratio = learner.warmup_ratio
        l2 = learner.weight_decay
        max_norm = learner.max_grad_norm
        max_epochs = learner.num_iterations | learner.num_train_epochs; epochs over a batch of completions, or over the data of a fine-tuning
        num_episodes = learner.num_train_epochs
        init_kl_coef = learner.beta
        kl_estimator = learner.kl_estimator
        use_kl_loss = learner.kl_in_reward; false if it is given, true if not
        eps_clip = learner.epsilon
        eps_clip_low_high = learner.epsilon; and learner.epsilon_high
        entropy_loss_coef = learner.entropy_coef
        advantage_estimator = learner.advantage_estimator; group_norm is grpo, rloo is rloo, reinforce is reinforce_plus_plus
        dynamic_filtering = learner.filter_zero_variance
        gradient_checkpointing = learner.gradient_checkpointing
        adam_offload = learner.offload_optimizer
        remote_rm_url = rewards.functions; [path/to/file.py:function], with the arguments of docs/rewards.md
        lora_rank = model.lora.r
        lora_alpha = model.lora.alpha
        lora_dropout = model.lora.dropout
        target_modules = model.lora.target_modules
        load_in_4bit = model.quantization; nf4
        save_path = out_dir
        ckpt_path = out_dir; checkpoints are in its folder checkpoints
        save_steps = cluster.save_steps; 0 (only at the end) for -1
        eval_steps = evaluation.steps | learner.eval_steps
        max_ckpt_num = cluster.save_total_limit
        logging_steps = cluster.logging_steps
        use_wandb = cluster.report_to; [wandb], with the key in WANDB_API_KEY
        use_tensorboard = cluster.report_to; [tensorboard]
        wandb_project = cluster.wandb_project
        wandb_run_name = cluster.run_name
        wandb_group = cluster.wandb_run_group
        seed = seed
    """,
)

NEMO_RL = System(
    name="NeMo-RL",
    command=r"\bnemo_rl\b|\buv run (?:python )?(?:\./)?examples/run_(?:grpo|sft|dpo|rm|distillation)\w*\.py\b",
    marks=(
        "policy.model_name grpo.",
        "policy.model_name sft.",
        "policy.model_name loss_fn.",
        "policy.model_name",
        "grpo.num_prompts_per_step",
    ),
    sections=("grpo", "sft", "dpo", "rm", "distillation"),
    commands=((r"run_sft", "SFT"), (r"run_dpo", "DPO"), (r"run_rm", "reward modelling"), (r"run_grpo", "GRPO")),
    table="""
        policy.model_name = model.path
        policy.precision = model.dtype
        policy.max_total_sequence_length = actors.max_completion_length | data.max_length; {} with the prompt
        policy.train_global_batch_size = learner.train_batch_size
        policy.max_grad_norm = learner.max_grad_norm
        policy.optimizer.kwargs.lr = learner.learning_rate
        policy.optimizer.kwargs.weight_decay = learner.weight_decay
        policy.dtensor_cfg.activation_checkpointing = learner.gradient_checkpointing
        policy.dtensor_cfg.lora_cfg.dim = model.lora.r
        policy.dtensor_cfg.lora_cfg.alpha = model.lora.alpha
        policy.generation.max_new_tokens = actors.max_completion_length
        policy.generation.temperature = actors.temperature
        policy.generation.top_p = actors.top_p
        policy.generation.top_k = actors.top_k
        policy.generation.vllm_cfg.tensor_parallel_size = actors.gpus_per_worker
        policy.generation.vllm_cfg.gpu_memory_utilization = actors.gpu_memory_utilization
        policy.generation.vllm_cfg.enforce_eager = actors.enforce_eager
        grpo.num_generations_per_prompt = actors.num_generations
        grpo.num_prompts_per_step = learner.train_batch_size; {} prompts x {grpo.num_generations_per_prompt|1} completions
        grpo.max_num_steps = learner.max_steps
        grpo.max_num_epochs = learner.num_train_epochs
        grpo.normalize_rewards = learner.scale_rewards; group if true, none if false
        grpo.use_leave_one_out_baseline = learner.advantage_estimator; rloo if it is true and rewards are not normalised
        grpo.val_period = evaluation.steps
        grpo.use_dynamic_sampling = learner.filter_zero_variance
        grpo.dynamic_sampling_max_gen_batches = learner.max_num_gen_batches
        grpo.async_grpo.max_trajectory_age_steps = cluster.max_staleness
        sft.max_num_steps = learner.max_steps
        sft.max_num_epochs = learner.num_train_epochs
        sft.val_period = learner.eval_steps
        loss_fn.reference_policy_kl_penalty = learner.beta
        loss_fn.ratio_clip_min = learner.epsilon
        loss_fn.ratio_clip_max = learner.epsilon_high
        loss_fn.token_level_loss = learner.loss_type; dapo if true, grpo if false
        loss_fn.sequence_level_importance_ratios = learner.importance_sampling_level; sequence if true, token if false
        data.max_input_seq_length = data.max_prompt_length | data.max_length
        data.dataset_name = data.path
        data.train_data_path = data.path
        data.val_data_path = data.eval_path
        data.input_key = data.prompt_column
        data.system_prompt_file = data.system_prompt; the text of {}
        data.shuffle = data.shuffle
        checkpointing.checkpoint_dir = out_dir
        checkpointing.save_period = cluster.save_steps
        checkpointing.keep_top_k = cluster.save_total_limit
        logger.wandb_enabled = cluster.report_to; [wandb] if true
        logger.wandb.project = cluster.wandb_project
        logger.wandb.name = cluster.run_name
        cluster.gpus_per_node = learner.ranks; of all GPUs, some sample (actors.num_workers) and the others learn
        grpo.seed = seed
        sft.seed = seed
    """,
)

PRIME_RL = System(
    name="prime-rl",
    command=r"\bprime_rl[/.]|\buv run (?:rl|orchestrator)\b",
    marks=("orchestrator.", "inference. trainer.", "rollouts_per_example", "sampling.max_tokens environment."),
    objective="GRPO",
    table="""
        model.name = model.path
        orchestrator.batch_size = learner.train_batch_size
        orchestrator.rollouts_per_example = actors.num_generations
        orchestrator.seq_len = actors.max_completion_length; {} with the prompt
        orchestrator.sampling.max_tokens = actors.max_completion_length
        orchestrator.sampling.temperature = actors.temperature
        trainer.optim.lr = learner.learning_rate
        trainer.model.lora.rank = model.lora.r
        max_steps = learner.max_steps
        max_async_level = cluster.max_staleness
        output_dir = out_dir
        wandb.project = cluster.wandb_project
        wandb.name = cluster.run_name
    """,
)

SKYRL = System(
    name="SkyRL",
    command=r"\bskyrl(?:_train|_gym|_tx)?\.",
    marks=("trainer.policy.model.path", "trainer.algorithm.advantage_estimator", "generator.n_samples_per_prompt"),
    objectives=("trainer.algorithm.advantage_estimator",),
    table="""
        trainer.policy.model.path = model.path
        trainer.policy.model.lora.rank = model.lora.r
        trainer.policy.model.lora.alpha = model.lora.alpha
        trainer.policy.optimizer_config.lr = learner.learning_rate
        trainer.policy.optimizer_config.max_grad_norm = learner.max_grad_norm
        trainer.algorithm.advantage_estimator = learner.advantage_estimator
        trainer.algorithm.kl_loss_coef = learner.beta; {} if use_kl_loss is true, else 0
        trainer.algorithm.eps_clip_low = learner.epsilon
        trainer.algorithm.eps_clip_high = learner.epsilon_high
        trainer.epochs = learner.num_train_epochs
        trainer.train_batch_size = learner.train_batch_size; {} prompts x {generator.n_samples_per_prompt|1} completions
        trainer.max_prompt_length = data.max_prompt_length
        trainer.eval_interval = evaluation.steps
        trainer.ckpt_interval = cluster.save_steps
        trainer.ckpt_path = out_dir
        trainer.project_name = cluster.wandb_project
        trainer.run_name = cluster.run_name
        generator.n_samples_per_prompt = actors.num_generations
        generator.num_inference_engines = actors.num_workers
        generator.inference_engine_tensor_parallel_size = actors.gpus_per_worker
        generator.gpu_memory_utilization = actors.gpu_memory_utilization
        generator.sampling_params.max_generate_length = actors.max_completion_length
        generator.sampling_params.temperature = actors.temperature
        data.train_data = data.path
        data.val_data = data.eval_path
    """,
)

AREAL = System(
    name="AReaL",
    command=r"\bareal\.\w+",
    marks=("allocation_mode gconfig.", "gconfig.n_samples", "actor.group_size", "allocation_mode train_dataset."),
    objective="GRPO",
    table="""
        actor.path = model.path
        train_dataset.path = data.path
        valid_dataset.path = data.eval_path
        train_dataset.batch_size = learner.train_batch_size; {} prompts x {gconfig.n_samples|1} completions
        gconfig.n_samples = actors.num_generations
        gconfig.max_new_tokens = actors.max_completion_length
        gconfig.temperature = actors.temperature
        actor.optimizer.lr = learner.learning_rate
        actor.eps_clip = learner.epsilon
        actor.kl_ctl = learner.beta
        rollout.max_head_offpolicyness = cluster.max_staleness
        total_train_epochs = learner.num_train_epochs
        experiment_name = cluster.wandb_project
        trial_name = cluster.run_name
        seed = seed
    """,
)

SLIME = System(
    name="slime",
    command=r"\bslime/train(?:_async)?\.py\b",
    marks=("hf_checkpoint", "n_samples_per_prompt rollout_max_response_len"),
    objectives=("advantage_estimator",),
    objective="GRPO",
    table="""
        hf_checkpoint = model.path
        prompt_data = data.path
        input_key = data.prompt_column
        label_key = data.columns; {{}: solution}
        n_samples_per_prompt = actors.num_generations
        rollout_max_response_len = actors.max_completion_length
        rollout_temperature = actors.temperature
        rollout_num_gpus_per_engine = actors.gpus_per_worker
        rollout_batch_size = learner.train_batch_size; {} prompts x {n_samples_per_prompt|1} completions
        global_batch_size = learner.train_batch_size
        num_rollout = learner.max_steps
        eval_interval = evaluation.steps
        lr = learner.learning_rate
        weight_decay = learner.weight_decay
        kl_loss_coef = learner.beta
        eps_clip = learner.epsilon
        eps_clip_high = learner.epsilon_high
        entropy_coef = learner.entropy_coef
        advantage_estimator = learner.advantage_estimator
        save = out_dir
        save_interval = cluster.save_steps
        wandb_project = cluster.wandb_project
        wandb_group = cluster.wandb_run_group
    """,
)

RL_SYSTEMS = (VERL, OPENRLHF, NEMO_RL, SKYRL, AREAL, SLIME, PRIME_RL)
