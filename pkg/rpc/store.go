package rpc

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Keeper looks after a durable store. It is safe for concurrent use.
type Keeper interface {
	// Figures returns the store's figures.
	Figures() (StoreFigures, error)
	// Compact deletes what cannot be read any more and rewrites the store's files. It ends early if ctx
	// does.
	Compact(ctx context.Context) error
	// Backup writes everything at the head revision to w. It ends early if ctx does, or if w fails.
	Backup(ctx context.Context, w io.Writer) error
}

// StoreFigures describe a store; see GetStatisticsResponse for what each is.
type StoreFigures struct {
	ID string
	// Horizon is zero before the first collection.
	Head, Horizon                                  time.Time
	Retention                                      time.Duration
	Relationships                                  uint64
	DiskBytes, LogBytes, MemTableBytes, CacheBytes uint64
	CompactionDebtBytes                            uint64
	ReadAmplification                              uint32
	Levels                                         []StoreLevel
	Writable                                       bool
}

// StoreLevel is one level of a store's tree of files.
type StoreLevel struct {
	Number       uint32
	Files, Bytes uint64
}

type stores struct {
	deputyv1.UnimplementedStoreServiceServer
	border
}

// keeper returns who looks after the store, if the engine has one.
func (s *stores) keeper() (Keeper, error) {
	if s.Store == nil {
		return nil, authz.Errorf(authz.Precondition, authz.ReasonNoStore,
			"the engine has no store of its own: use the tools of its database")
	}
	return s.Store, nil
}

// GetStatistics describes the store.
func (s *stores) GetStatistics(context.Context, *deputyv1.GetStatisticsRequest) (*deputyv1.GetStatisticsResponse, error) {
	keeper, err := s.keeper()
	if err != nil {
		return nil, err
	}
	f, err := keeper.Figures()
	if err != nil {
		return nil, err
	}
	out := &deputyv1.GetStatisticsResponse{
		StoreId: f.ID, Head: timestamppb.New(f.Head), Retention: durationpb.New(f.Retention), Relationships: f.Relationships,
		DiskBytes: f.DiskBytes, LogBytes: f.LogBytes, MemtableBytes: f.MemTableBytes, CacheBytes: f.CacheBytes,
		CompactionDebtBytes: f.CompactionDebtBytes, ReadAmplification: f.ReadAmplification, Writable: f.Writable,
	}
	if !f.Horizon.IsZero() {
		out.Horizon = timestamppb.New(f.Horizon)
	}
	for _, l := range f.Levels {
		out.Levels = append(out.Levels, &deputyv1.StoreLevel{Number: l.Number, Files: l.Files, Bytes: l.Bytes})
	}
	return out, nil
}

// Compact compacts the store.
func (s *stores) Compact(ctx context.Context, _ *deputyv1.CompactRequest) (*deputyv1.CompactResponse, error) {
	keeper, err := s.keeper()
	if err != nil {
		return nil, err
	}
	before, err := keeper.Figures()
	if err != nil {
		return nil, err
	}
	if err := keeper.Compact(ctx); err != nil {
		return nil, err
	}
	after, err := keeper.Figures()
	if err != nil {
		return nil, err
	}
	return &deputyv1.CompactResponse{DiskBytesBefore: before.live(), DiskBytesAfter: after.live()}, nil
}

// live is what the files take without those that are about to be deleted.
func (f *StoreFigures) live() uint64 {
	total := f.LogBytes
	for _, l := range f.Levels {
		total += l.Bytes
	}
	return total
}

// Backup streams a backup.
func (s *stores) Backup(_ *deputyv1.BackupRequest, stream grpc.ServerStreamingServer[deputyv1.BackupResponse]) error {
	keeper, err := s.keeper()
	if err != nil {
		return err
	}
	return keeper.Backup(stream.Context(), chunkWriter{stream})
}

// chunkWriter sends what is written as chunks.
type chunkWriter struct {
	stream grpc.ServerStreamingServer[deputyv1.BackupResponse]
}

// maxChunk is how large a chunk is at most, in bytes: well below what clients take by default.
const maxChunk = 1 << 20

// Write is io.Writer's. gRPC may keep a message, so the bytes are copied.
func (w chunkWriter) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n := min(len(p)-sent, maxChunk)
		if err := w.stream.Send(&deputyv1.BackupResponse{Chunk: append([]byte(nil), p[sent:sent+n]...)}); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}
