"""TRL's loss of DPO and the norm of its gradient, all pairs of --data in one batch: --model is the reference."""

import json
from pathlib import Path

import torch
from flags import flags
from train import trainer_of
from transformers import AutoModelForCausalLM

if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = flags()
    parser.add_argument("--policy", type=Path, required=True)
    options = parser.parse_args()
    trainer = trainer_of(options)
    trainer.model.load_state_dict(AutoModelForCausalLM.from_pretrained(options.policy).state_dict())
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters()])
    found = {"loss": loss.item(), "gradient_norm": norm.item()}
    (options.run_dir / "summary.json").write_text(json.dumps(found))
