"""The purifier's diffusion model (DDPM): its files, its training, and short forward/reverse segments."""
