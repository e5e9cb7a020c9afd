"""Multimodal models: which family their language model is of, where its own config does not say."""

# model_type of the whole -> that of its text_config; tests/test_families_attention.py compares them
# with transformers' classes
# fmt: off
TEXT_OF = {
    "aria": "aria_text", "audioflamingo3": "qwen2", "aya_vision": "cohere2", "blip-2": "opt",
    "cohere2_vision": "cohere2", "cosmos3_omni": "qwen3_vl_text", "deepseek_vl": "llama",
    "deepseek_vl_hybrid": "llama", "emu3": "emu3_text_model", "exaone4_5": "exaone4",
    "fast_vlm": "qwen2", "fun_asr_nano": "qwen3", "fuyu": "persimmon", "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text", "gemma4": "gemma4_text", "gemma4_unified": "gemma4_unified_text",
    "gemma4_unified_assistant": "gemma4_unified_text", "glm46v": "glm4v_text",
    "glm4v": "glm4v_text", "glm4v_moe": "glm4v_moe_text", "glmasr": "llama", "glmga": "glm4v_text",
    "got_ocr2": "qwen2", "granite_speech": "granite", "granite_speech_plus": "granite",
    "hyperclovax_vision_v2": "hyperclovax", "idefics2": "mistral", "idefics3": "llama",
    "instructblip": "opt", "instructblipvideo": "opt", "internvl": "qwen2", "janus": "llama",
    "jev": "qwen3_5_text", "kimi_k25": "deepseek_v3", "lfm2_vl": "lfm2", "lfm3_vl": "lfm3",
    "lighton_ocr": "qwen3", "llama4": "llama4_text", "llava": "llama", "llava_next": "llama",
    "llava_next_video": "llama", "llava_onevision": "qwen2", "minicpm_ocr": "qwen3_5_text",
    "minicpmv4_6": "qwen3_5_text", "minicpmv4_7": "qwen3_5_text",
    "minimax_m3_vl": "minimax_m3_vl_text", "mistral3": "mistral",
    "moss_transcribe_diarize": "qwen3", "musicflamingo": "qwen2", "nemo_speechlm": "nemotron_h",
    "nemotron_h_omni": "nemotron_h", "ovis2": "qwen2", "paligemma": "gemma",
    "perception_lm": "llama", "pp_chart2table": "qwen2", "qianfan_ocr": "qwen3",
    "qwen2_5_omni_thinker": "qwen2_5_omni_text", "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_audio": "qwen2", "qwen2_vl": "qwen2_vl_text", "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text", "qwen3_asr": "qwen3",
    "qwen3_omni_moe_thinker": "qwen3_omni_moe_text", "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text", "shieldgemma2": "gemma3_text", "smolvlm": "llama",
    "vibevoice": "qwen2", "vibevoice_asr": "qwen2", "video_llama_3": "qwen2",
    "video_llava": "llama", "vipllava": "llama", "voxtral": "llama",
}
# fmt: on
