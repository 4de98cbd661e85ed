package load

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/engine"
)

// raw passes messages on as they come.
type raw struct{}

// frame is one message.
type frame struct{ data []byte }

// Marshal is encoding.CodecV2's.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, errors.New("this is no frame")
	}
	return mem.BufferSlice{mem.SliceBuffer(f.data)}, nil
}

// Unmarshal is encoding.CodecV2's.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return errors.New("this is no frame")
	}
	f.data = data.Materialize()
	return nil
}

// Name is encoding.CodecV2's.
func (raw) Name() string { return "proto" }

// gated puts a gate between Deputy and the SpiceDB that cfg names, which lets so many checks through in a second, one after the other. All else
// passes.
func gated(t *testing.T, cfg *engine.Config, checks int) {
	t.Helper()
	up, err := grpc.NewClient(cfg.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
	if err != nil {
		t.Fatal(err)
	}
	pace := rate.NewLimiter(rate.Limit(checks), max(checks/100, 1))
	s := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(func(_ any, down grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(down)
		if strings.HasSuffix(method, "/CheckBulkPermissions") {
			if err := pace.Wait(down.Context()); err != nil {
				return status.FromContextError(err).Err()
			}
		}
		return pass(down, up, method)
	}))
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(func() {
		s.Stop()
		_ = up.Close()
	})
	cfg.Endpoint = listener.Addr().String()
}

// pass passes a call on, both ways.
func pass(down grpc.ServerStream, up *grpc.ClientConn, method string) error {
	came, _ := metadata.FromIncomingContext(down.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(down.Context(), came))
	defer cancel()
	stream, err := up.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	go func() {
		for {
			f := &frame{}
			if err := down.RecvMsg(f); err != nil {
				_ = stream.CloseSend()
				return
			}
			if err := stream.SendMsg(f); err != nil {
				return
			}
		}
	}()
	for first := true; ; first = false {
		f := &frame{}
		err := stream.RecvMsg(f)
		if first {
			if header, err := stream.Header(); err == nil {
				_ = down.SetHeader(header)
			}
		}
		if err != nil {
			down.SetTrailer(stream.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := down.SendMsg(f); err != nil {
			return err
		}
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	end := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-end:
			t.Fatalf("it took more than 30 s until %s", what)
		case <-tick.C:
		}
	}
}
