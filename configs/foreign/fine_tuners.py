"""Systems that began with fine-tuning: LLaMA-Factory, ms-swift, Axolotl and torchtune."""

from __future__ import annotations

from configs.foreign.systems import System

_TRAINING = """
    output_dir = out_dir
    learning_rate = learner.learning_rate
    num_train_epochs = learner.num_train_epochs
    max_steps = learner.max_steps
    lr_scheduler_type = learner.lr_scheduler_type
    warmup_ratio = learner.warmup_ratio
    warmup_steps = learner.warmup_steps
    weight_decay = learner.weight_decay
    adam_beta1 = learner.adam_beta1
    adam_beta2 = learner.adam_beta2
    adam_epsilon = learner.adam_epsilon
    max_grad_norm = learner.max_grad_norm
    gradient_checkpointing = learner.gradient_checkpointing
    per_device_train_batch_size = learner.train_batch_size; {} x gradient_accumulation_steps {gradient_accumulation_steps|1} x GPUs
    gradient_accumulation_steps = learner.train_batch_size; per_device_train_batch_size {per_device_train_batch_size|1} x {} x GPUs
    save_steps = cluster.save_steps
    save_total_limit = cluster.save_total_limit
    logging_steps = cluster.logging_steps
    eval_steps = learner.eval_steps | evaluation.steps
    report_to = cluster.report_to; tensorboard or wandb of {}
    run_name = cluster.run_name
    seed = seed
    beta = learner.beta
    epsilon = learner.epsilon
    epsilon_high = learner.epsilon_high
    loss_type = learner.loss_type
    num_iterations = learner.num_iterations
    num_generations = actors.num_generations
    temperature = actors.temperature
    top_p = actors.top_p
    top_k = actors.top_k
    max_completion_length = actors.max_completion_length
    vllm_gpu_memory_utilization = actors.gpu_memory_utilization
    vllm_tensor_parallel_size = actors.gpus_per_worker
    log_completions = cluster.log_completions
    reward_weights = rewards.functions; [{name: ..., weight: ...}]
"""
"""Settings of transformers and TRL that these systems pass on."""

LLAMA_FACTORY = System(
    name="LLaMA-Factory",
    command=r"\bllamafactory-cli\b|\bllamafactory\.|\bsrc/train_bash\.py\b",
    marks=("finetuning_type", "stage template", "stage dataset", "dataset_dir cutoff_len", "template cutoff_len", "lora_target cutoff_len"),
    objectives=("stage",),
    objective="SFT",
    remedy="The files of its dataset_info.json are given as data.path, with the settings of docs/data.md.",
    table=_TRAINING
    + """
        model_name_or_path = model.path
        adapter_name_or_path = model.adapter
        model_revision = model.revision
        trust_remote_code = model.trust_remote_code
        finetuning_type = learner.use_peft | model.lora; an adapter for lora; all weights, which only fine-tuning trains, for full
        lora_rank = model.lora.r
        lora_alpha = model.lora.alpha
        lora_dropout = model.lora.dropout
        lora_target = model.lora.target_modules; all-linear for all
        use_rslora = model.lora.use_rslora
        quantization_bit = model.quantization; nf4 for 4, int8 for 8
        template = model.chat_template; the model's own is used if it is not given
        dataset = data.path; the file that dataset_info.json names for {}
        eval_dataset = data.eval_path; the file that dataset_info.json names for {}
        cutoff_len = data.max_length | data.max_prompt_length
        max_samples = data.train_samples
        val_size = data.test_split_size
        mix_strategy = data.mixture
        streaming = data.streaming
        bf16 = model.dtype; bfloat16 if true
        pure_bf16 = model.dtype; bfloat16 if true
    """,
)

MS_SWIFT = System(
    name="ms-swift",
    command=r"(?:^|[\s/])(?:mega|megatron )?swift (?:sft|rlhf|pt|rollout)\b|\bswift[./](?:cli|llm)\b",
    marks=(
        "rlhf_type",
        "train_type model",
        "tuner_type model",
        "external_plugins reward_funcs",
        "train_type dataset",
        "model_type train_type",
    ),
    objectives=("rlhf_type",),
    commands=((r"\bswift (?:sft)\b|cli[./]sft", "SFT"), (r"\bswift pt\b|cli[./]pt", "pre-training")),
    remedy="A data set with #N takes data.train_samples=N; ModelScope ids are downloaded first, or named as on the Hugging Face hub.",
    table=_TRAINING
    + """
        model = model.path
        adapters = model.adapter
        model_revision = model.revision
        train_type = learner.use_peft | model.lora; an adapter for lora; all weights, which only fine-tuning trains, for full
        tuner_type = learner.use_peft | model.lora; an adapter for lora; all weights, which only fine-tuning trains, for full
        lora_rank = model.lora.r
        lora_alpha = model.lora.alpha
        lora_dropout = model.lora.dropout
        use_rslora = model.lora.use_rslora
        target_modules = model.lora.target_modules
        torch_dtype = model.dtype
        quant_bits = model.quantization; nf4 for 4, int8 for 8
        dataset = data.path; several are data.mixture
        val_dataset = data.eval_path
        split_dataset_ratio = data.test_split_size
        columns = data.columns
        streaming = data.streaming
        system = data.system_prompt; the text of {}, if it is a file
        max_length = data.max_length | data.max_prompt_length
        template = model.chat_template; the model's own is used if it is not given
        reward_funcs = rewards.functions; built-in names, or path/to/file.py:function for one of external_plugins
        external_plugins = rewards.functions; path/to/file.py:function
        cosine_max_len = rewards.functions; max_len of the reward cosine
        dynamic_sample = learner.filter_zero_variance
        max_resample_times = learner.max_num_gen_batches
        scale_rewards = learner.scale_rewards
        importance_sampling_level = learner.importance_sampling_level
        overlong_filter = learner.mask_truncated_completions
    """,
)

AXOLOTL = System(
    name="Axolotl",
    command=r"(?:^|[\s/])axolotl (?:train|preprocess)\b|\baxolotl\.cli\b",
    marks=("base_model datasets", "base_model micro_batch_size", "base_model sequence_len", "base_model adapter", "base_model rl"),
    objectives=("rl",),
    objective="SFT",
    table="""
        base_model = model.path
        revision_of_model = model.revision
        trust_remote_code = model.trust_remote_code
        chat_template_jinja = model.chat_template
        adapter = learner.use_peft | model.lora; an adapter for lora and qlora; all weights, which only fine-tuning trains, without
        lora_model_dir = model.adapter
        lora_r = model.lora.r
        lora_alpha = model.lora.alpha
        lora_dropout = model.lora.dropout
        lora_target_modules = model.lora.target_modules
        lora_target_linear = model.lora.target_modules; all-linear if true
        peft_use_rslora = model.lora.use_rslora
        load_in_4bit = model.quantization; nf4 if true
        load_in_8bit = model.quantization; int8 if true
        bf16 = model.dtype; bfloat16 if true
        datasets = data.path; several are data.mixture, and their columns are named as in docs/data.md
        test_datasets = data.eval_path
        val_set_size = data.test_split_size
        sequence_len = data.max_length | data.max_prompt_length
        excess_length_strategy = data.too_long; truncate, or leave_out for drop
        micro_batch_size = learner.train_batch_size; {} x gradient_accumulation_steps {gradient_accumulation_steps|1} x GPUs
        gradient_accumulation_steps = learner.train_batch_size; micro_batch_size {micro_batch_size|1} x {} x GPUs
        num_epochs = learner.num_train_epochs
        max_steps = learner.max_steps
        learning_rate = learner.learning_rate
        lr_scheduler = learner.lr_scheduler_type
        warmup_steps = learner.warmup_steps
        warmup_ratio = learner.warmup_ratio
        weight_decay = learner.weight_decay
        max_grad_norm = learner.max_grad_norm
        gradient_checkpointing = learner.gradient_checkpointing
        output_dir = out_dir
        save_steps = cluster.save_steps
        save_total_limit = cluster.save_total_limit
        logging_steps = cluster.logging_steps
        eval_steps = learner.eval_steps | evaluation.steps
        wandb_project = cluster.wandb_project
        wandb_entity = cluster.wandb_entity
        wandb_name = cluster.run_name
        seed = seed
        trl.beta = learner.beta
        trl.epsilon = learner.epsilon
        trl.epsilon_high = learner.epsilon_high
        trl.loss_type = learner.loss_type
        trl.num_generations = actors.num_generations
        trl.max_completion_length = actors.max_completion_length
        trl.temperature = actors.temperature
        trl.num_iterations = learner.num_iterations
        trl.scale_rewards = learner.scale_rewards
        trl.reward_funcs = rewards.functions; path/to/file.py:function for module.function
        trl.reward_weights = rewards.functions; [{name: ..., weight: ...}]
        vllm.gpu_memory_utilization = actors.gpu_memory_utilization
        vllm.tensor_parallel_size = actors.gpus_per_worker
    """,
)

TORCHTUNE = System(
    name="torchtune",
    command=r"(?:^|[\s/])tune run\b",
    marks=("model._component_", "tokenizer._component_", "checkpointer._component_", "dataset._component_"),
    commands=(
        (r"dpo", "DPO"),
        (r"ppo", "PPO"),
        (r"grpo", "GRPO"),
        (r"knowledge_distillation", "knowledge distillation"),
        (r"finetune", "SFT"),
    ),
    objective="SFT",
    table="""
        checkpointer.checkpoint_dir = model.path
        model.lora_rank = model.lora.r
        model.lora_alpha = model.lora.alpha
        model.lora_dropout = model.lora.dropout
        model.lora_attn_modules = model.lora.target_modules; q_proj, v_proj, ... of {}
        dtype = model.dtype; bfloat16 for bf16, float32 for fp32
        tokenizer.max_seq_len = data.max_length | data.max_prompt_length
        dataset.source = data.path
        dataset.split = data.split
        dataset.column_map = data.columns
        dataset.new_system_prompt = data.system_prompt
        shuffle = data.shuffle
        batch_size = learner.train_batch_size; {} x gradient_accumulation_steps {gradient_accumulation_steps|1} x GPUs
        gradient_accumulation_steps = learner.train_batch_size; batch_size {batch_size|1} x {} x GPUs
        epochs = learner.num_train_epochs
        max_steps_per_epoch = learner.max_steps
        optimizer.lr = learner.learning_rate
        optimizer.weight_decay = learner.weight_decay
        lr_scheduler.num_warmup_steps = learner.warmup_steps
        clip_grad_norm = learner.max_grad_norm
        enable_activation_checkpointing = learner.gradient_checkpointing
        grpo_samples = actors.num_generations
        max_generated_tokens = actors.max_completion_length
        temperature = actors.temperature
        top_k = actors.top_k
        output_dir = out_dir
        log_every_n_steps = cluster.logging_steps
        seed = seed
    """,
)

FINE_TUNERS = (LLAMA_FACTORY, MS_SWIFT, AXOLOTL, TORCHTUNE)
