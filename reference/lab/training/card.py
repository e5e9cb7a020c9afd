"""The description of the trained pair, as Markdown next to the weights."""


def model_card(card: dict) -> str:
    """The README of the pair, from the data in card.json."""
    corpus, models = card["corpus"], card["models"]
    lines = [
        "# The bundled pair",
        "",
        "Two small Llama checkpoints that write Python, and a head that drafts for the larger one.",
        "`python -m reference train` made them from the Python files on one computer, without",
        "other data. With them you can measure speculative decoding without a download. The",
        "Python that they write is not useful.",
        "",
        f"Corpus: {corpus['what']}, split by file:",
        f"{corpus['files']} files for training and {corpus['held_out_files']} held out,",
        f"{corpus['tokens'] / 1e6:.2f}M tokens of {corpus['bytes_per_token']} bytes on average,",
        f"sha256 `{corpus['sha256']}`.",
        "The prompts in `prompts.json` are pieces of held-out files, under the same licence.",
        "",
        "| model | parameters | training tokens | held-out loss (nats per token) |",
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
        "Mean overlap of the two models' distributions on held-out text at temperature 1 (alpha):",
        f"**{card['alpha']:.3f}**.",
    ]
    if "distillation" in models["draft"]:
        curve = models["draft"]["distillation"]
        first, last = curve[0], curve[-1]
        lines += [
            "The draft first learned the text, then the target's distribution (distillation). The",
            "distillation minimises the total variation distance, which is one minus the overlap.",
            "On held-out windows of the training length this distance fell from",
            f"{first['held_out_loss']:.3f} after {first['tokens'] / 1e6:.2f}M tokens "
            f"to {last['held_out_loss']:.3f}.",
        ]
    if "head" in models:
        lines += ["", *head_lines(models["head"])]
    lines += [
        "",
        "Recipes, seeds and loss curves: `card.json`. Another version of Python has another",
        "standard library, so its corpus hash differs.",
    ]
    notes = [model["notes"] for model in models.values() if "notes" in model]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def head_lines(head: dict) -> list[str]:
    """The loss of the head, and a table of how often its drafts are accepted, by depth."""
    by_depth = head["acceptance_by_depth"]
    depths = range(1, len(by_depth["sampled"]) + 1)
    return [
        "The head's loss is the divergence of its distribution from the target's, as a mean over",
        f"the {head['recipe']['depth']} depths of its training. The table shows its drafts on "
        "held-out text: how often",
        "each is accepted if all drafts before it were accepted.",
        "",
        "| draft | " + " | ".join(map(str, depths)) + " |",
        "|---|" + "---|" * len(depths),
        *(
            f"| {name} | " + " | ".join(f"{share:.3f}" for share in by_depth[kind]) + " |"
            for kind, name in (
                ("sampled", "accepted at temperature 1"),
                ("greedy", "equal to the target's greedy choice"),
            )
        ),
    ]
