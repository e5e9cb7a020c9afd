"""What is known of the trained pair, as Markdown beside the weights."""


def model_card(card: dict) -> str:
    corpus, models = card["corpus"], card["models"]
    lines = [
        "# The bundled pair",
        "",
        "Two small Llama checkpoints that write Python, and a head that drafts for the larger,",
        "made by `python -m reference train` from nothing but the Python on the machine. They",
        "exist so that speculative decoding can be measured without a download; they are no use",
        "as programmers.",
        "",
        f"Corpus: {corpus['what']}, split by file:",
        f"{corpus['files']} files trained on and {corpus['held_out_files']} held out,",
        f"{corpus['tokens'] / 1e6:.2f}M tokens of {corpus['bytes_per_token']} bytes,",
        f"sha256 `{corpus['sha256']}`.",
        "The prompts in `prompts.json` are pieces of held-out files, under the same licence.",
        "",
        "| model | parameters | tokens trained on | held-out loss (nats per token) |",
        "|---|---|---|---|",
    ]
    for role, model in models.items():
        recipe = model["recipe"]
        budget = f"{recipe['budget_tokens'] / 1e6:.1f}M"
        if "distillation" in model:
            budget += f", {recipe['distilled_tokens'] / 1e6:.1f}M distilled"
        lines.append(
            f"| {role} | {model['parameters']:,} | {budget} | {model['held_out_loss']:.3f} |"
        )
    lines += [
        "",
        "Mean overlap of the two laws on held-out text at temperature 1 (alpha): "
        f"**{card['alpha']:.3f}**.",
    ]
    if "distillation" in models["draft"]:
        curve = models["draft"]["distillation"]
        first, last = curve[0], curve[-1]
        lines += [
            "The draft first learned the text, then the target's law: its distance in total",
            "variation, one minus that overlap, on held-out windows of the length it is trained on",
            f"fell from {first['held_out_loss']:.3f} after {first['tokens'] / 1e6:.2f}M tokens "
            f"to {last['held_out_loss']:.3f}.",
        ]
    if "head" in models:
        lines += ["", *head_lines(models["head"])]
    lines += [
        "",
        "Recipes, seeds and loss curves: `card.json`. Another Python has another standard library",
        "and gives another corpus hash.",
    ]
    notes = [model["notes"] for model in models.values() if "notes" in model]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def head_lines(head: dict) -> list[str]:
    by_depth = head["acceptance_by_depth"]
    depths = range(1, len(by_depth["sampled"]) + 1)
    return [
        "The head's loss is the divergence of its law from the target's, a mean over the depths it",
        f"was trained for ({head['recipe']['depth']}). Its drafts on held-out text, each if it is",
        "reached:",
        "",
        "| draft | " + " | ".join(map(str, depths)) + " |",
        "|---|" + "---|" * len(depths),
        *(
            f"| {name} | " + " | ".join(f"{share:.3f}" for share in by_depth[kind]) + " |"
            for kind, name in (
                ("sampled", "accepted at temperature 1"),
                ("greedy", "the target's own choice, greedy"),
            )
        ),
    ]
